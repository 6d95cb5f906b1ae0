/*-------------------------------------------------------------------------
 *
 * catchup_table.c
 *	  What catch-up keeps in the database, and what it finds out there about
 *	  the events of a round.
 *
 * Each function here runs a short transaction of its own.  None is open while
 * events are on their way to Kafka, so an outage holds back no vacuum and no
 * lock on outbox.event.
 *
 * A round first counts its events, which finds where their ids begin and end,
 * by the index on xid; then it reads them a batch at a time, by the index on
 * id (catchup_reader.c).  Neither looks at what was published before the oldest
 * of them.  The plans are not left to chance: statistics may be missing or old.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/table/catchup_table.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"

#include "core/background_worker.h"
#include "core/database_id.h"
#include "relay/state/catchup_progress.h"
#include "relay/state/watermark.h"
#include "relay/table/identity_table.h"
#include "relay/table/watermark_table.h"

/* A snapshot that shows nothing. */
#define NOTHING "1:1:"

/*
 * The events of database $1 that the snapshot $4 shows and the watermark, with the
 * upper end $2 and the running transactions $3, does not, after id $5.  The
 * watermark is taken apart for the index on xid, and the sums hide id and database_id
 * from the other index.
 */
#define ROUND_EVENTS \
	" FROM outbox.event e" \
	" WHERE (e.database_id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.=) $1" \
	" AND (e.xid OPERATOR(pg_catalog.>=) $2::pg_catalog.xid8" \
	"      OR e.xid OPERATOR(pg_catalog.=) ANY ($3::pg_catalog.xid8[]))" \
	" AND pg_catalog.pg_visible_in_snapshot(e.xid, $4::pg_catalog.pg_snapshot)" \
	" AND (e.id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.>) $5"
#define ROUND_ARGS 5

#define COUNT_EVENTS \
	"SELECT pg_catalog.min(e.id), pg_catalog.max(e.id), pg_catalog.count(*)" \
	ROUND_EVENTS

/* The transactions of these events. */
#define ROUND_TRANSACTIONS \
	" FROM (SELECT e.xid, pg_catalog.min(e.id) AS first_id," \
	"       pg_catalog.max(e.id) AS last_id, pg_catalog.count(*) AS events," \
	"       pg_catalog.sum(pg_catalog.octet_length(e.payload)) AS bytes" \
	ROUND_EVENTS " GROUP BY e.xid) t"

/* Only those transactions that end after id $6. */
#define COUNT_UNFINISHED \
	"SELECT pg_catalog.min(t.first_id), pg_catalog.max(t.last_id)," \
	" pg_catalog.sum(t.events)::pg_catalog.int8" \
	ROUND_TRANSACTIONS " WHERE t.last_id OPERATOR(pg_catalog.>) $6"

/*
 * Of those, the ones that begin at id $7 or before and have events of others
 * between their own, $8 at most.
 */
#define INTERLEAVED_TRANSACTIONS \
	"SELECT t.xid, t.first_id, t.last_id, t.events, t.bytes::pg_catalog.int8" \
	ROUND_TRANSACTIONS " WHERE t.last_id OPERATOR(pg_catalog.>) $6" \
	" AND t.first_id OPERATOR(pg_catalog.<=) $7" \
	" AND (t.last_id OPERATOR(pg_catalog.-) t.first_id) OPERATOR(pg_catalog.<>)" \
	" (t.events OPERATOR(pg_catalog.-) 1)" \
	" ORDER BY t.last_id LIMIT $8"

#define FETCH_TRANSACTIONS 1000

/*
 * Sets planner settings, a list that ends with NULL, to 0, or off, until the
 * end of the transaction.
 */
void
catchup_turn_off(const char *const *settings)
{
	for (; *settings; settings++)
		(void) set_config_option(*settings, "0", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * A pg_snapshot out of text.
 */
Datum
catchup_snapshot_datum(const char *snapshot)
{
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(snapshot));
}

/* A column of the first row of the last query, as text. */
static char *
result_text(int column)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

/* A column of a row of the last query as a bigint; 0 when it is NULL. */
static int64
row_int64(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

static int64
result_int64(int column)
{
	return row_int64(0, column);
}

/*
 * Reads the stored round of a database into the given context; NULL when there is
 * none.
 */
CatchupProgress *
catchup_load(int32 database_id, MemoryContext context)
{
	Oid			types[1] = {INT4OID};
	Datum		args[1] = {Int32GetDatum(database_id)};
	CatchupProgress *progress = NULL;

	worker_begin_sql();
	if (SPI_execute_with_args("SELECT snapshot, lsn, last_id, events_done, from_id"
							  " FROM outbox.catchup"
							  " WHERE database_id OPERATOR(pg_catalog.=) $1",
							  1, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox.catchup");
	if (SPI_processed > 0)
	{
		progress = MemoryContextAllocZero(context, sizeof(CatchupProgress));
		progress->database_id = database_id;
		progress->snapshot = MemoryContextStrdup(context, result_text(1));
		progress->lsn = DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
														CStringGetDatum(result_text(2))));
		progress->last_id = result_int64(3);
		progress->done = result_int64(4);
		progress->whole = result_text(5) != NULL;
		progress->from_id = result_int64(5);
	}
	worker_commit_sql();
	return progress;
}

/* Writes the row of a round.  Needs SPI. */
static void
write_row(const CatchupProgress *progress)
{
	Oid			types[7] = {INT4OID, PG_SNAPSHOTOID, LSNOID, INT8OID, INT8OID,
	INT8OID, INT8OID};
	char		nulls[8] = "       ";
	Datum		args[7];

	args[0] = Int32GetDatum(progress->database_id);
	args[1] = catchup_snapshot_datum(progress->snapshot);
	args[2] = LSNGetDatum(progress->lsn);
	args[3] = Int64GetDatum(progress->last_id);
	args[4] = Int64GetDatum((int64) progress->done);
	args[5] = Int64GetDatum((int64) progress->total);
	args[6] = Int64GetDatum(progress->from_id);
	if (!progress->whole)
		nulls[6] = 'n';
	if (SPI_execute_with_args("INSERT INTO outbox.catchup"
							  " (database_id, snapshot, lsn, last_id, events_done,"
							  "  events_total, from_id)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7)"
							  " ON CONFLICT (database_id) DO UPDATE SET snapshot = $2,"
							  " lsn = $3, last_id = $4, events_done = $5,"
							  " events_total = $6, from_id = $7,"
							  " saved_at = pg_catalog.clock_timestamp()",
							  7, types, args, nulls, false, 0) != SPI_OK_INSERT)
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
	worker_begin_sql_at_exit();
	/* Nobody but us changes the row: the table's lock is the only one. */
	if (worker_try_lock("outbox", "catchup", RowExclusiveLock) == LOCK_TAKEN)
		write_row(progress);
	worker_commit_sql();
}

/*
 * Is the stored state of the progress's database later than the progress?  Either
 * the round is complete, or the database is none any more that we publish for, or
 * the row of the round says more.  Needs SPI.
 */
static bool
is_outdated(const CatchupProgress *progress)
{
	Oid			types[4] = {INT4OID, LSNOID, TEXTOID, INT8OID};
	Datum		args[4];

	args[0] = Int32GetDatum(progress->database_id);
	args[1] = LSNGetDatum(progress->lsn);
	args[2] = CStringGetTextDatum(progress->snapshot);
	args[3] = Int64GetDatum(progress->last_id);
	if (SPI_execute_with_args("SELECT WHERE $1 OPERATOR(pg_catalog.<>) outbox.database_id() AND NOT EXISTS"
							  " (SELECT FROM outbox.identity"
							  "  WHERE database_id OPERATOR(pg_catalog.=) $1 AND adopted)"
							  " OR $1 OPERATOR(pg_catalog.=) outbox.database_id() AND EXISTS"
							  " (SELECT FROM outbox.watermark"
							  "  WHERE database_id OPERATOR(pg_catalog.=) $1"
							  "  AND lsn OPERATOR(pg_catalog.>=) $2)"
							  " OR EXISTS (SELECT FROM outbox.catchup"
							  "  WHERE database_id OPERATOR(pg_catalog.=) $1"
							  "  AND snapshot::pg_catalog.text OPERATOR(pg_catalog.=) $3"
							  "  AND last_id OPERATOR(pg_catalog.>) $4)",
							  4, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not compare the progress of catch-up");
	return SPI_processed > 0;
}

/*
 * Stores, durably, how far a round has come that is known from elsewhere.
 * Returns false, and does nothing, when what is stored is later.
 */
bool
catchup_adopt(const CatchupProgress *progress)
{
	bool		adopted;

	worker_begin_sql();
	adopted = !is_outdated(progress);
	if (adopted)
		write_row(progress);
	worker_commit_sql();
	if (adopted)
		XLogFlush(XactLastCommitEnd);
	return adopted;
}

/*
 * A round is complete: its snapshot becomes the database's watermark, durably when
 * the database is not ours.  With forget_database, it is done with.
 */
void
catchup_settle(const CatchupProgress *progress, bool forget_database)
{
	Watermark	watermark;

	watermark.lsn = progress->lsn;
	watermark.snapshot = progress->snapshot;
	worker_begin_sql();
	watermark_insert(progress->database_id, &watermark);
	if (forget_database)
		identity_forget(progress->database_id);
	worker_commit_sql();
	if (progress->database_id != own_database_id())
		XLogFlush(XactLastCommitEnd);
}

/* The database's latest watermark, or one that shows nothing.  Needs SPI. */
static char *
published_snapshot(int32 database_id, MemoryContext context)
{
	Watermark  *watermark = watermark_latest(database_id, context);

	return watermark ? watermark->snapshot : MemoryContextStrdup(context, NOTHING);
}

/*
 * Fills in the arguments of ROUND_EVENTS, and turns off plans that would not
 * use the index on xid.  Needs SPI.
 */
static void
prepare_round(const CatchupProgress *progress, const CatchupRange *range,
			  Oid *types, Datum *args)
{
	static const char *const by_xid[] = {"enable_seqscan", "enable_indexscan",
		"enable_indexonlyscan", "max_parallel_workers_per_gather", "jit",
	NULL};
	char	   *upper = strchr(range->published, ':') + 1;
	char	   *running = strchr(upper, ':') + 1;

	catchup_turn_off(by_xid);
	types[0] = INT4OID;
	args[0] = Int32GetDatum(progress->database_id);
	types[1] = types[2] = types[3] = TEXTOID;
	args[1] = PointerGetDatum(cstring_to_text_with_len(upper, running - upper - 1));
	args[2] = CStringGetTextDatum(psprintf("{%s}", running));
	args[3] = CStringGetTextDatum(progress->snapshot);
	types[4] = INT8OID;
	args[4] = Int64GetDatum(progress->whole ? progress->from_id : progress->last_id);
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
	Oid			types[ROUND_ARGS + 1];
	Datum		args[ROUND_ARGS + 1];
	bool		by_transaction = progress->whole &&
	progress->last_id > progress->from_id;

	worker_begin_sql();
	range->published = published_snapshot(progress->database_id, context);
	prepare_round(progress, range, types, args);
	types[ROUND_ARGS] = INT8OID;
	args[ROUND_ARGS] = Int64GetDatum(progress->last_id);
	if (SPI_execute_with_args(by_transaction ? COUNT_UNFINISHED : COUNT_EVENTS,
							  by_transaction ? ROUND_ARGS + 1 : ROUND_ARGS,
							  types, args, NULL, true, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not count events");
	progress->total = progress->done + result_int64(3);
	if (result_int64(3) > 0)
		progress->last_id = Max(progress->last_id, result_int64(1) - 1);
	range->through_id = result_int64(2);
	worker_commit_sql();
}

/* Adds the rows of the last query to a list. */
static void
add_transactions(TransactionList *list)
{
	if (list->count + SPI_processed > list->size)
	{
		list->size = Max(list->size * 2, list->count + FETCH_TRANSACTIONS);
		list->items = list->items ?
			repalloc_huge(list->items, list->size * sizeof(RoundTransaction)) :
			MemoryContextAllocHuge(list->context,
								   list->size * sizeof(RoundTransaction));
	}
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		RoundTransaction *item = &list->items[list->count++];

		item->xid = (uint64) row_int64(row, 1);
		item->first_id = row_int64(row, 2);
		item->last_id = row_int64(row, 3);
		item->events = row_int64(row, 4);
		item->bytes = row_int64(row, 5);
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Adds transactions of a round to a list, in the order of their last events:
 * those that end after one id, begin at another or before, and have events of
 * others between their own.  With a limit above 0, no more than so many.
 */
void
catchup_list(const CatchupProgress *progress, const CatchupRange *range,
			 int64 ends_after, int64 begins_until, int64 limit,
			 TransactionList *list)
{
	Oid			types[ROUND_ARGS + 3];
	Datum		args[ROUND_ARGS + 3];
	char		nulls[] = "        ";
	Portal		cursor;

	worker_begin_sql();
	prepare_round(progress, range, types, args);
	types[ROUND_ARGS] = types[ROUND_ARGS + 1] = types[ROUND_ARGS + 2] = INT8OID;
	args[ROUND_ARGS] = Int64GetDatum(ends_after);
	args[ROUND_ARGS + 1] = Int64GetDatum(begins_until);
	args[ROUND_ARGS + 2] = Int64GetDatum(limit);
	if (limit <= 0)
		nulls[ROUND_ARGS + 2] = 'n';
	cursor = SPI_cursor_open_with_args(NULL, INTERLEAVED_TRANSACTIONS,
									   ROUND_ARGS + 3, types, args, nulls, true, 0);
	while (SPI_cursor_fetch(cursor, true, FETCH_TRANSACTIONS), SPI_processed > 0)
		add_transactions(list);
	SPI_cursor_close(cursor);
	worker_commit_sql();
}
