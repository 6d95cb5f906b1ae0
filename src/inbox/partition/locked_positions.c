/*-------------------------------------------------------------------------
 *
 * locked_positions.c
 *	  Which positions somebody else has locked, for who is about to take them
 *	  over.
 *
 * A session that has called inbox.seek() has the row of a position locked until
 * its transaction ends, which may take long.  Where there was no row, it has
 * made one, which nobody else sees until then; who wants to add a row of the
 * same key waits for it all the same.  The index tells of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/locked_positions.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "core/background_worker.h"
#include "core/compat.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/table/ring.h"

#define OF_KEYS \
	" FROM inbox.position p JOIN ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3))" \
	"  WITH ORDINALITY t (topic, partition, number)" \
	" ON p.topic OPERATOR(pg_catalog.=) t.topic" \
	" AND p.partition OPERATOR(pg_catalog.=) t.partition" \
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1"

/* Locks those that nobody has, and returns the numbers of the others, from 1 on. */
#define LOCKED_QUERY \
	"WITH free AS MATERIALIZED (SELECT t.number" OF_KEYS " FOR NO KEY UPDATE OF p SKIP LOCKED)" \
	" SELECT t.number::pg_catalog.int4" OF_KEYS \
	" AND (t.number OPERATOR(pg_catalog.=) ANY (SELECT f.number FROM free f)) IS NOT TRUE"

/* Marks those of n positions whose rows somebody else has locked. */
static void
mark_locked(Datum *args, bool *locked)
{
	Oid			types[] = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID};

	(void) worker_run_sql(LOCKED_QUERY, lengthof(types), types, args, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		int			number = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[row],
														 SPI_tuptable->tupdesc, 1,
														 &isnull));

		locked[number - 1] = true;
	}
}

/* Opens inbox.position and its primary key. */
static void
open_positions(Relation *heap, Relation *index)
{
	Oid			schema = get_namespace_oid(INBOX_SCHEMA, false);

	*heap = relation_open(get_relname_relid("position", schema), AccessShareLock);
	list_free(RelationGetIndexList(*heap));
	if (!OidIsValid((*heap)->rd_pkindex))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s.%s\" has no primary key",
						INBOX_SCHEMA, RelationGetRelationName(*heap)),
				 errdetail("Extension outbox made it with one, which was dropped since."),
				 errhint("Add the primary key of \"inbox.position\" again.")));
	*index = index_open((*heap)->rd_pkindex, AccessShareLock);
}

/* Sets a key of the scan of an index to equality with a value. */
static void
set_key(ScanKey key, Relation index, int column, RegProcedure equal, Datum value)
{
	ScanKeyEntryInitialize(key, 0, column, BTEqualStrategyNumber, InvalidOid,
						   index->rd_indcollation[column - 1], equal, value);
}

/*
 * Marks those of n positions whose rows a transaction that is still running has
 * made or removed.
 */
static void
mark_unfinished(Datum name, const TopicPartition *const *keys, int n, bool *locked)
{
	Relation	heap;
	Relation	index;
	SnapshotData dirty;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	ScanKeyData scan_keys[3];

	open_positions(&heap, &index);
	slot = table_slot_create(heap, NULL);
	InitDirtySnapshot(dirty);
	scan = compat_index_beginscan(heap, index, &dirty, lengthof(scan_keys));
	set_key(&scan_keys[0], index, 1, F_TEXTEQ, name);
	for (int i = 0; i < n; i++)
	{
		if (locked[i])
			continue;
		set_key(&scan_keys[1], index, 2, F_TEXTEQ,
				CStringGetTextDatum(keys[i]->topic));
		set_key(&scan_keys[2], index, 3, F_INT4EQ,
				Int32GetDatum(keys[i]->partition));
		index_rescan(scan, scan_keys, lengthof(scan_keys), NULL, 0);
		locked[i] = index_getnext_slot(scan, ForwardScanDirection, slot) &&
			(TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax));
		ExecClearTuple(slot);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	relation_close(heap, AccessShareLock);
}

/*
 * Sets locked[i] for each of n positions that somebody else has locked, or is
 * making, and locks the others that there are, until the transaction ends.  Does
 * not wait.  args are the name of the subscription and arrays of topics and
 * partitions, of the keys in their order.  Needs SPI.
 */
void
locked_positions_find(Datum *args, const TopicPartition *const *keys, int n, bool *locked)
{
	memset(locked, false, sizeof(bool) * n);
	mark_locked(args, locked);
	mark_unfinished(args[0], keys, n, locked);
}
