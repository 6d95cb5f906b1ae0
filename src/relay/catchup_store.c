/*-------------------------------------------------------------------------
 *
 * catchup_store.c
 *	  What catch-up keeps in the database, and the events that it reads there.
 *
 * Each function here runs a short transaction of its own.  None is open while
 * events are on their way to Kafka, so an outage holds back no vacuum and no
 * lock on outbox.event.
 *
 * A round first counts its events, which finds where their ids begin and end,
 * by the index on xid; then it reads them a batch at a time, by the index on
 * id.  Neither looks at what was published before the oldest of them.  The
 * plans are not left to chance: statistics may be missing or old.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/catchup_store.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"

#include "base/worker.h"
#include "relay/identity.h"
#include "relay/watermark.h"

#define FETCH_ROWS 50

/* A snapshot that shows nothing. */
#define NOTHING "1:1:"

/*
 * Counts the events of home $1 that the snapshot $4 shows and the watermark,
 * with the upper end $2 and the running transactions $3, does not, after id
 * $5.  The watermark is taken apart for the index on xid, and the sums hide id
 * and home from the other index.
 */
#define COUNT_EVENTS \
	"SELECT pg_catalog.min(e.id), pg_catalog.max(e.id), pg_catalog.count(*)" \
	" FROM outbox.event e" \
	" WHERE (e.home OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.=) $1" \
	" AND (e.xid OPERATOR(pg_catalog.>=) $2::pg_catalog.xid8" \
	"      OR e.xid OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.xid8[]))" \
	" AND pg_catalog.pg_visible_in_snapshot(e.xid, $4::pg_catalog.pg_snapshot)" \
	" AND (e.id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.>) $5"

/*
 * The same events, up to id $2.  The columns are those of EventColumn, in
 * their order.
 */
#define READ_EVENTS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.home" \
	" FROM outbox.event e" \
	" WHERE e.id OPERATOR(pg_catalog.>) $1 AND e.id OPERATOR(pg_catalog.<=) $2" \
	" AND e.home OPERATOR(pg_catalog.=) $3" \
	" AND NOT pg_catalog.pg_visible_in_snapshot(e.xid, $4)" \
	" AND pg_catalog.pg_visible_in_snapshot(e.xid, $5)" \
	" ORDER BY e.id"

/* Sets planner settings to 0, or off, until the end of the transaction. */
static void
turn_off(const char *const *settings)
{
	for (; *settings; settings++)
		(void) set_config_option(*settings, "0", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

/* A pg_snapshot out of text. */
static Datum
snapshot_datum(const char *snapshot)
{
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(snapshot));
}

/* A column of the first row of the last query, as text. */
static char *
result_text(int column)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

/* The same as a bigint; 0 when it is NULL. */
static int64
result_int64(int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/*
 * Reads the stored round of a home into the given context; NULL when there is
 * none.
 */
CatchupProgress *
catchup_load(int32 home, MemoryContext context)
{
	Oid			types[1] = {INT4OID};
	Datum		args[1] = {Int32GetDatum(home)};
	CatchupProgress *progress = NULL;

	worker_begin_sql();
	if (SPI_execute_with_args("SELECT snapshot, lsn, last_id, events_done"
							  " FROM outbox.catchup WHERE home = $1",
							  1, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox.catchup");
	if (SPI_processed > 0)
	{
		progress = MemoryContextAllocZero(context, sizeof(CatchupProgress));
		progress->home = home;
		progress->snapshot = MemoryContextStrdup(context, result_text(1));
		progress->lsn = DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
														CStringGetDatum(result_text(2))));
		progress->last_id = result_int64(3);
		progress->done = result_int64(4);
	}
	worker_commit_sql();
	return progress;
}

/* Writes the row of a round.  Needs SPI. */
static void
write_row(const CatchupProgress *progress)
{
	Oid			types[6] = {INT4OID, PG_SNAPSHOTOID, LSNOID, INT8OID, INT8OID,
	INT8OID};
	Datum		args[6];

	args[0] = Int32GetDatum(progress->home);
	args[1] = snapshot_datum(progress->snapshot);
	args[2] = LSNGetDatum(progress->lsn);
	args[3] = Int64GetDatum(progress->last_id);
	args[4] = Int64GetDatum((int64) progress->done);
	args[5] = Int64GetDatum((int64) progress->total);
	if (SPI_execute_with_args("INSERT INTO outbox.catchup"
							  " (home, snapshot, lsn, last_id, events_done, events_total)"
							  " VALUES ($1, $2, $3, $4, $5, $6)"
							  " ON CONFLICT (home) DO UPDATE SET snapshot = $2,"
							  " lsn = $3, last_id = $4, events_done = $5,"
							  " events_total = $6,"
							  " saved_at = pg_catalog.clock_timestamp()",
							  6, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store the progress of catch-up");
}

/*
 * Stores how far a round has come.  Does not wait for the disk: what was
 * stored before stays true.
 */
void
catchup_save(const CatchupProgress *progress)
{
	worker_begin_sql();
	write_row(progress);
	worker_commit_sql();
}

/*
 * The same as the process ends, whatever it was doing.  Then it must not wait
 * for a lock, since whoever holds it may wait for us; nor is there a table
 * when the extension has gone.
 */
void
catchup_save_at_exit(const CatchupProgress *progress)
{
	Oid			schema;
	Oid			table = InvalidOid;

	AbortOutOfAnyTransaction();
	worker_begin_sql();
	schema = get_namespace_oid("outbox", true);
	if (OidIsValid(schema))
		table = get_relname_relid("catchup", schema);

	/* Nobody but us changes the row: the table's lock is the only one. */
	if (OidIsValid(table) &&
		ConditionalLockRelationOid(table, RowExclusiveLock) &&
		SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table)))
		write_row(progress);
	worker_commit_sql();
}

/*
 * A round is complete: its snapshot becomes the home's watermark.  With
 * forget_home, the home is an adopted one that is done with.
 */
void
catchup_settle(const CatchupProgress *progress, bool forget_home)
{
	Watermark	watermark;

	watermark.lsn = progress->lsn;
	watermark.snapshot = progress->snapshot;
	worker_begin_sql();
	watermark_insert(progress->home, &watermark);
	if (forget_home)
		identity_forget(progress->home);
	worker_commit_sql();
}

/* The home's latest watermark, or one that shows nothing.  Needs SPI. */
static char *
published_snapshot(int32 home, MemoryContext context)
{
	Watermark  *watermark = watermark_latest(home, context);

	return watermark ? watermark->snapshot : MemoryContextStrdup(context, NOTHING);
}

/*
 * Counts what is left of a round and finds out where it ends.  Sets the
 * progress's total, moves its last_id to where there is something to do, and
 * fills in range, allocated in the given context.
 */
void
catchup_count(CatchupProgress *progress, CatchupRange *range,
			  MemoryContext context)
{
	static const char *const by_xid[] = {"enable_seqscan", "enable_indexscan",
		"enable_indexonlyscan", "max_parallel_workers_per_gather", "jit",
	NULL};
	Oid			types[5] = {INT4OID, TEXTOID, TEXTOID, TEXTOID, INT8OID};
	Datum		args[5];
	char	   *upper;
	char	   *running;

	worker_begin_sql();
	turn_off(by_xid);
	range->published = published_snapshot(progress->home, context);
	upper = strchr(range->published, ':') + 1;
	running = strchr(upper, ':') + 1;
	args[0] = Int32GetDatum(progress->home);
	args[1] = PointerGetDatum(cstring_to_text_with_len(upper, running - upper - 1));
	args[2] = CStringGetTextDatum(psprintf("{%s}", running));
	args[3] = CStringGetTextDatum(progress->snapshot);
	args[4] = Int64GetDatum(progress->last_id);
	if (SPI_execute_with_args(COUNT_EVENTS, 5, types, args, NULL, true, 0) !=
		SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not count events");
	progress->total = progress->done + result_int64(3);
	if (result_int64(3) > 0)
		progress->last_id = result_int64(1) - 1;
	range->through_id = result_int64(2);
	worker_commit_sql();
}

/* The plan that reads a batch, made once.  Needs SPI. */
static SPIPlanPtr
read_plan(void)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[5] = {INT8OID, INT8OID, INT4OID, PG_SNAPSHOTOID,
	PG_SNAPSHOTOID};

	if (plan == NULL)
	{
		plan = SPI_prepare(READ_EVENTS, 5, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare to read events");
	}
	return plan;
}

/*
 * Adds the rows of the last query to a batch.  Returns false when there is no
 * room for more; what was left out can be read again.
 */
static bool
add_rows(EventBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		room = true;

	for (uint64 i = 0; i < SPI_processed && room; i++)
	{
		HeapTuple	tuple = heap_copytuple(SPI_tuptable->vals[i]);

		/* That unpacks what is long. */
		event_from_tuple(&batch->events[batch->size++], tuple,
						 SPI_tuptable->tupdesc);
		room = batch->size < BATCH_EVENTS &&
			MemoryContextMemAllocated(batch->context, true) < BATCH_BYTES;
	}
	SPI_freetuptable(SPI_tuptable);
	MemoryContextSwitchTo(old);
	return room;
}

/*
 * Reads the next events of a round after an id.  Returns false when there are
 * none.
 */
bool
catchup_read(const CatchupProgress *progress, const CatchupRange *range,
			 int64 after, EventBatch *batch)
{
	static const char *const by_id[] = {"enable_seqscan", "enable_bitmapscan",
	"enable_sort", "jit", NULL};
	Datum		args[5] = {Int64GetDatum(after), Int64GetDatum(range->through_id),
	Int32GetDatum(progress->home)};
	Portal		cursor;

	MemoryContextReset(batch->context);
	batch->size = 0;
	worker_begin_sql();
	turn_off(by_id);
	args[3] = snapshot_datum(range->published);
	args[4] = snapshot_datum(progress->snapshot);
	cursor = SPI_cursor_open(NULL, read_plan(), args, NULL, true);
	do
		SPI_cursor_fetch(cursor, true, FETCH_ROWS);
	while (SPI_processed > 0 && add_rows(batch));
	SPI_cursor_close(cursor);
	worker_commit_sql();
	return batch->size > 0;
}
