/*-------------------------------------------------------------------------
 *
 * extension_relations.c
 *	  Relations that the extension made, found without a query.
 *
 * Names are looked up in our schema, so the search_path has no say.  What was
 * found is forgotten when one of the relations changes, because it may have
 * been dropped and made anew.
 *
 *-------------------------------------------------------------------------
 */
#include "core/extension_relations.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "storage/bufmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Relcache callback: forgets where relations are. */
static void
forget(Datum arg, Oid relid)
{
	OwnRelations *own = (OwnRelations *) DatumGetPointer(arg);

	for (int i = 0; i < own->count; i++)
	{
		if (!OidIsValid(relid) || own->oids[i] == relid)
		{
			memset(own->oids, 0, own->count * sizeof(Oid));
			return;
		}
	}
}

/* Looks up a relation; InvalidOid when there is none. */
static Oid
find(OwnRelations *own, const char *name)
{
	if (!own->watched)
	{
		CacheRegisterRelcacheCallback(forget, PointerGetDatum(own));
		own->watched = true;
	}
	return get_relname_relid(name, get_namespace_oid(own->schema, true));
}

/*
 * Raises the error that a relation is not as the extension made it.
 */
void
extension_relation_is_wrong(const char *schema, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s.%s\" is not what extension outbox made",
					schema, name),
			 errdetail("It was detached, replaced, or its columns were changed."),
			 errhint("Undo that, or drop the extension and create it again.")));
}

/*
 * Opens a relation, a sequence or a partition, and takes a lock that shall
 * last until the end of the transaction.  *oid is its place in own->oids.
 * Raises an error when it does not exist or is something else.
 */
Relation
extension_relation_open(OwnRelations *own, Oid *oid, const char *name, char kind,
						LOCKMODE lockmode)
{
	Relation	relation = NULL;

	/* What is known may be outdated until there is a lock. */
	for (int i = 0; i < 2 && relation == NULL; i++)
	{
		if (!OidIsValid(*oid))
			*oid = find(own, name);
		if (!OidIsValid(*oid))
			break;
		relation = try_relation_open(*oid, lockmode);
		if (relation == NULL)
			*oid = InvalidOid;
	}
	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", own->schema, name),
				 errdetail("Extension outbox made it, and it was renamed or dropped since."),
				 errhint("Undo that, or drop the extension and create it again.")));
	if (relation->rd_rel->relkind != kind ||
		(kind == RELKIND_RELATION && !relation->rd_rel->relispartition))
		extension_relation_is_wrong(own->schema, name);
	return relation;
}

/*
 * The last value of a sequence, the same for everybody, whatever their
 * snapshots.  It is read from the sequence's page, because there is no cheaper
 * function for it.  The page's lock orders reads: who sees a value sees
 * everything that was done before it was set.  Parameters and errors as above.
 */
int64
extension_sequence_value(OwnRelations *own, Oid *oid, const char *name)
{
	Relation	sequence = extension_relation_open(own, oid, name, RELKIND_SEQUENCE,
												   AccessShareLock);
	Buffer		buffer = ReadBuffer(sequence, 0);
	Page		page;
	HeapTupleHeader tuple;
	int64		value;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page,
										  PageGetItemId(page, FirstOffsetNumber));
	value = ((Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff))->last_value;
	UnlockReleaseBuffer(buffer);
	relation_close(sequence, NoLock);
	return value;
}
