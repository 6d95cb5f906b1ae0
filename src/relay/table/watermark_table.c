/*-------------------------------------------------------------------------
 *
 * watermark_table.c
 *	  Which transactions' events are on Kafka.
 *
 * The set of published events is described by one snapshot, never by a mark
 * on each event.  Now and then the relay proposes a watermark: it takes a
 * snapshot and, after it, the WAL insert position.  Every transaction that
 * the snapshot shows has its commit record before that position.  So once
 * everything up to there is acknowledged, the snapshot shows only published
 * transactions, and the proposal is stored.
 *
 * Everything here runs transactions of its own, outside of decoding, but for
 * watermark_shows().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/table/watermark_table.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "core/background_worker.h"
#include "core/database_id.h"
#include "core/monotonic_clock.h"
#include "relay/state/watermark.h"
#include "relay/wal/slot_decoder.h"

/*
 * To go on, only the latest row is needed; the others tell when an event was
 * published.  All of them stay for a day, and of those before the last one of
 * each hour, so that this is true within an hour however long ago it was.
 */
#define THIN_OUT \
	"WITH old AS MATERIALIZED (" \
	" SELECT w.database_id, w.id, pg_catalog.date_trunc('hour', w.taken_at, 'UTC') AS hour" \
	" FROM outbox.watermark w" \
	" WHERE w.taken_at OPERATOR(pg_catalog.<) pg_catalog.date_trunc('hour'," \
	"  pg_catalog.now() OPERATOR(pg_catalog.-) '1 day'::pg_catalog.interval, 'UTC'))" \
	" DELETE FROM outbox.watermark w USING old" \
	" WHERE old.id OPERATOR(pg_catalog.=) w.id" \
	" AND old.database_id OPERATOR(pg_catalog.=) w.database_id" \
	" AND NOT EXISTS (SELECT FROM (SELECT pg_catalog.max(o.id) AS id FROM old o" \
	"                              GROUP BY o.database_id, o.hour) last" \
	"                 WHERE last.id OPERATOR(pg_catalog.=) old.id)"
#define THIN_OUT_INTERVAL_MS (60 * 60 * 1000)

/*
 * While the table is polled, watermarks come true many times a second.  So
 * many make one row: the last of them.
 */
#define ROW_INTERVAL_MS 1000

/* The row that was inserted last, and when, by monotonic_now(). */
static int64 last_row = 0;
static TimestampTz last_row_at;

/* One text from the first row and column of a query, NULL when none. */
static char *
query_text(const char *query, int nargs, Oid *types, Datum *args,
		   int column, MemoryContext context)
{
	char	   *value;

	if (SPI_execute_with_args(query, nargs, types, args, NULL, true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", query);
	if (SPI_processed == 0)
		return NULL;
	value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
	return value ? MemoryContextStrdup(context, value) : NULL;
}

/*
 * The latest watermark of a database, or NULL.  Needs SPI.
 */
Watermark *
watermark_latest(int32 database_id, MemoryContext context)
{
	Oid			types[1] = {INT4OID};
	Datum		args[1] = {Int32GetDatum(database_id)};
	Watermark  *watermark;
	char	   *snapshot;
	char	   *lsn;

	snapshot = query_text("SELECT snapshot, lsn FROM outbox.watermark"
						  " WHERE database_id OPERATOR(pg_catalog.=) $1"
						  " ORDER BY id DESC LIMIT 1",
						  1, types, args, 1, context);
	if (snapshot == NULL)
		return NULL;
	watermark = MemoryContextAlloc(context, sizeof(Watermark));
	watermark->snapshot = snapshot;
	lsn = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	watermark->lsn = DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
													 CStringGetDatum(lsn)));
	return watermark;
}

/*
 * That of this database, in a transaction of its own.
 */
Watermark *
watermark_load(MemoryContext context)
{
	Watermark  *watermark;

	worker_begin_sql();
	watermark = watermark_latest(own_database_id(), context);
	worker_commit_sql();
	return watermark;
}

/*
 * Does the watermark show the transaction?  Then its events are on Kafka.
 */
bool
watermark_shows(const Watermark *watermark, uint64 xid)
{
	Datum		snapshot = DirectFunctionCall1(pg_snapshot_in,
											   CStringGetDatum(watermark->snapshot));

	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)),
											snapshot));
}

/*
 * The active snapshot of the current transaction, as text.  Needs SPI.
 */
char *
watermark_current_snapshot(MemoryContext context)
{
	return query_text("SELECT pg_catalog.pg_current_snapshot()",
					  0, NULL, NULL, 1, context);
}

/*
 * Takes a snapshot and the position that belongs to it.
 */
Watermark *
watermark_propose(MemoryContext context)
{
	Watermark  *watermark = MemoryContextAlloc(context, sizeof(Watermark));

	worker_begin_sql();
	watermark->snapshot = watermark_current_snapshot(context);
	worker_commit_sql();
	watermark->lsn = slot_decoder_wal_end();
	return watermark;
}

/* Drops what is not needed of old watermarks, but not too often.  Needs SPI. */
static void
thin_out(void)
{
	static bool done = false;
	static TimestampTz done_at;
	TimestampTz now = monotonic_now();

	if (done && !TimestampDifferenceExceeds(done_at, now, THIN_OUT_INTERVAL_MS))
		return;
	if (SPI_execute(THIN_OUT, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not drop old watermarks");
	done = true;
	done_at = now;
}

/*
 * Changes the row that was inserted last, if that was just before and it is
 * still the latest.  Returns false when there must be a new one.
 */
static bool
change_last_row(Datum *args)
{
	Oid			types[4] = {INT4OID, LSNOID, TEXTOID, INT8OID};

	if (last_row == 0 ||
		TimestampDifferenceExceeds(last_row_at, monotonic_now(), ROW_INTERVAL_MS))
		return false;
	args[3] = Int64GetDatum(last_row);
	return worker_run_sql("UPDATE outbox.watermark w"
						  " SET lsn = $2, snapshot = $3::pg_catalog.pg_snapshot,"
						  " taken_at = pg_catalog.clock_timestamp()"
						  " WHERE w.database_id OPERATOR(pg_catalog.=) $1"
						  " AND w.id OPERATOR(pg_catalog.=) $4"
						  " AND w.taken_at OPERATOR(pg_catalog.>)"
						  "  (pg_catalog.clock_timestamp()"
						  "   OPERATOR(pg_catalog.-) '1 s'::pg_catalog.interval)"
						  " AND NOT EXISTS (SELECT FROM outbox.watermark l"
						  "                 WHERE l.database_id OPERATOR(pg_catalog.=) $1"
						  "                 AND l.id OPERATOR(pg_catalog.>) $4)",
						  4, types, args, SPI_OK_UPDATE);
}

static void
insert_row(Datum *args)
{
	Oid			types[3] = {INT4OID, LSNOID, TEXTOID};
	bool		isnull;

	worker_run_sql("INSERT INTO outbox.watermark (database_id, lsn, snapshot)"
				   " VALUES ($1, $2, $3::pg_catalog.pg_snapshot) RETURNING id",
				   3, types, args, SPI_OK_INSERT_RETURNING);
	last_row = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, 1, &isnull));
	last_row_at = monotonic_now();
}

/*
 * Stores a watermark of a database that has come true, and drops old ones.  It
 * shows all that a round of catch-up there can have stored so far, so that is
 * dropped, too.  Needs SPI.
 */
void
watermark_insert(int32 database_id, const Watermark *watermark)
{
	Oid			types[1] = {INT4OID};
	Datum		args[4];

	args[0] = Int32GetDatum(database_id);
	args[1] = LSNGetDatum(watermark->lsn);
	args[2] = CStringGetTextDatum(watermark->snapshot);
	if (!change_last_row(args))
		insert_row(args);
	thin_out();
	if (SPI_execute_with_args("DELETE FROM outbox.catchup"
							  " WHERE database_id OPERATOR(pg_catalog.=) $1",
							  1, types, args, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not drop the progress of catch-up");
}

/*
 * Stores a watermark of this database, in a transaction of its own.  Does not
 * wait for the disk: the watermark before it stays true.
 */
void
watermark_store(const Watermark *watermark)
{
	worker_begin_sql();
	watermark_insert(own_database_id(), watermark);
	worker_commit_sql();
}
