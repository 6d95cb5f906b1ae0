/*-------------------------------------------------------------------------
 *
 * summarize.c
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

#include "relay/summarize.h"

#include "access/brin.h"
#include "access/genam.h"
#include "access/relation.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"

#include "base/worker.h"

#define SUMMARIZE_EVENTS 10000	/* sent between two times */
#define CHUNKS 8				/* of outbox.event */

#define CHUNK_INDEXES \
	"SELECT i.inhrelid, x.indrelid, pg_catalog.pg_relation_filenode(x.indrelid)" \
	" FROM pg_catalog.pg_inherits i, pg_catalog.pg_index x" \
	" WHERE i.inhparent OPERATOR(pg_catalog.=)" \
	"       'outbox.event_xid_idx'::pg_catalog.regclass" \
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
 * Summarizes the full ranges of a chunk.  Returns false when it is locked: by
 * vacuum, say.
 */
static bool
summarize_chunk(Oid index, Oid table, Summarized *done)
{
	Relation	relation;
	BlockNumber range;
	BlockNumber blocks;

	if (!ConditionalLockRelationOid(table, ShareUpdateExclusiveLock))
		return false;
	relation = relation_open(table, NoLock);
	blocks = RelationGetNumberOfBlocks(relation);
	relation_close(relation, NoLock);
	relation = index_open(index, AccessShareLock);
	range = BrinGetPagesPerRange(relation);
	index_close(relation, NoLock);
	for (; done->blocks + range <= blocks; done->blocks += range)
	{
		CHECK_FOR_INTERRUPTS();
		DirectFunctionCall2(brin_summarize_range, ObjectIdGetDatum(index),
							Int64GetDatum(done->blocks));
	}
	return true;
}

/*
 * So many more events were sent out of the table: summarizes what is due, in
 * a transaction of its own.  What is locked is tried again next time.
 */
void
summarize_sent(uint64 events)
{
	static uint64 sent = SUMMARIZE_EVENTS;	/* whatever was there before us */

	sent += events;
	if (sent < SUMMARIZE_EVENTS)
		return;
	sent = 0;
	worker_begin_sql();
	worker_run_sql(CHUNK_INDEXES, 0, NULL, NULL, SPI_OK_SELECT);
	for (int i = 0; i < Min(SPI_processed, CHUNKS); i++)
	{
		if (summarized[i].file != result_oid(i, 3))
			summarized[i] = (Summarized)
		{
			.file = result_oid(i, 3)
		};
		if (!summarize_chunk(result_oid(i, 1), result_oid(i, 2), &summarized[i]))
			sent = SUMMARIZE_EVENTS;
	}
	worker_commit_sql();
}
