/*-------------------------------------------------------------------------
 *
 * chunk_checks.h
 *	  What the owner of outbox.event may have added to a chunk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CHUNK_CHECKS_H
#define OUTBOX_CHUNK_CHECKS_H

#include "postgres.h"

#include "nodes/primnodes.h"
#include "utils/rel.h"

extern bool chunk_is_our_check(const Expr *check);
extern bool chunk_has_extras(Relation chunk);

#endif							/* OUTBOX_CHUNK_CHECKS_H */
