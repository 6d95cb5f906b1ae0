/*-------------------------------------------------------------------------
 *
 * extension_relations.h
 *	  Relations that the extension made, found without a query.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXTENSION_RELATIONS_H
#define OUTBOX_EXTENSION_RELATIONS_H

#include "postgres.h"

#include "storage/lockdefs.h"
#include "utils/relcache.h"

#include "core/compat.h"

/*
 * Relations of one schema whose oids are kept: an array, InvalidOid where one
 * is not known yet.  Must live as long as the process.
 */
typedef struct OwnRelations
{
	const char *schema;
	Oid		   *oids;
	int			count;
	bool		watched;		/* do we hear of changes? */
} OwnRelations;

extern Relation extension_relation_open(OwnRelations *own, Oid *oid,
										const char *name, char kind,
										LOCKMODE lockmode);
extern int64 extension_sequence_value(OwnRelations *own, Oid *oid, const char *name);
pg_noreturn extern void extension_relation_is_wrong(const char *schema,
													const char *name);

#endif							/* OUTBOX_EXTENSION_RELATIONS_H */
