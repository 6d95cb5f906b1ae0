/*-------------------------------------------------------------------------
 *
 * event_index_summary.c
 *	  Keeps the index on xid of outbox.event complete while the table is polled.
 *
 * By that index (BRIN) a look at the table finds what no watermark shows, and
 * what the index does not summarize is read each time.  Vacuum summarizes, but
 * it comes when a table has grown by a fifth.  So a relay that polls does it for
 * whatever it has sent.  Ranges of pages that are not full yet are left out:
 * for those that are summarized, each INSERT has to change the index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/table/event_index_summary.h"

#include "access/brin.h"
#include "access/genam.h"
#include "access/relation.h"
#include "catalog/pg_am_d.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

#include "core/background_worker.h"

#define SUMMARIZE_EVENTS 10000	/* sent between two times */
#define RANGES_AT_ONCE 64		/* while nothing is published */
#define CHUNKS 8				/* of outbox.event */

#define CHUNK_INDEXES \
	"SELECT i.inhrelid, x.indrelid, pg_catalog.pg_relation_filenode(x.indrelid)" \
	" FROM pg_catalog.pg_inherits i, pg_catalog.pg_index x" \
	" WHERE i.inhparent OPERATOR(pg_catalog.=)" \
	"       pg_catalog.to_regclass('outbox.event_xid_idx')" \
	" AND x.indexrelid OPERATOR(pg_catalog.=) i.inhrelid" \
	" ORDER BY i.inhrelid"

/* What is summarized of a chunk, as long as it has the same file. */
typedef struct Summarized
{
	Oid			file;
	BlockNumber blocks;
} Summarized;

static Summarized summarized[CHUNKS];

static Oid
result_oid(int row, int column)
{
	bool		isnull;

	return DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[row],
										  SPI_tuptable->tupdesc, column, &isnull));
}

/*
 * Summarizes full ranges of a chunk, up to a number that it takes them from.
 * Returns false when there is more to do: it was too much, or the chunk is
 * locked, by vacuum, say.
 */
static bool
summarize_chunk(Oid index, Oid table, Summarized *done, int *ranges)
{
	Relation	relation;
	BlockNumber range;
	BlockNumber blocks;

	if (!ConditionalLockRelationOid(table, ShareUpdateExclusiveLock) ||
		!ConditionalLockRelationOid(index, ShareUpdateExclusiveLock))
		return false;
	relation = relation_open(table, NoLock);
	blocks = RelationGetNumberOfBlocks(relation);
	relation_close(relation, NoLock);
	relation = index_open(index, NoLock);
	range = BrinGetPagesPerRange(relation);
	index_close(relation, NoLock);
	for (; done->blocks + range <= blocks; done->blocks += range)
	{
		if ((*ranges)-- <= 0)
			return false;
		CHECK_FOR_INTERRUPTS();
		DirectFunctionCall2(brin_summarize_range, ObjectIdGetDatum(index),
							Int64GetDatum(done->blocks));
	}
	return true;
}

/*
 * So many more events were sent out of the table: summarizes what is due, in
 * a transaction of its own, but not too much.  The rest comes next time.
 */
void
event_index_summarize(uint64 events)
{
	static uint64 sent = SUMMARIZE_EVENTS;	/* whatever was there before us */
	int			ranges = RANGES_AT_ONCE;

	sent += events;
	if (sent < SUMMARIZE_EVENTS)
		return;
	sent = 0;
	worker_begin_sql();
	worker_run_sql(CHUNK_INDEXES, 0, NULL, NULL, SPI_OK_SELECT);
	for (int i = 0; i < Min(SPI_processed, CHUNKS); i++)
	{
		Summarized *done = &summarized[i];

		if (done->file != result_oid(i, 3))
			done->blocks = 0;
		done->file = result_oid(i, 3);
		if (!summarize_chunk(result_oid(i, 1), result_oid(i, 2), done, &ranges))
			sent = SUMMARIZE_EVENTS;
	}
	worker_commit_sql();
}
