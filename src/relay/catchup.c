/*-------------------------------------------------------------------------
 *
 * catchup.c
 *	  Publishes events out of the table, where no slot will deliver them.
 *
 * A snapshot decides what is new, never an id: what it shows and the watermark
 * does not is published, in the order of ids, and then the snapshot becomes
 * the watermark.  An event that was numbered early and committed late is as
 * new as any other.
 *
 * It is done once, when a slot is created, with the snapshot that shows
 * exactly what committed before the slot's first position.  The slot lasts
 * only from then on: when the relay dies before, the next one begins again,
 * and a missing slot is never a silent fresh start.
 *
 * Or it is done again and again, without any slot: the polling publisher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/catchup.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/worker.h"
#include "relay/deadletter.h"
#include "relay/decode.h"
#include "relay/exactly_once.h"
#include "relay/identity.h"
#include "relay/watermark.h"

#define FETCH_ROWS 500
#define UNSAFE_WAIT_MS 10

/* The columns are those of EventColumn, in their order. */
#define EVENT_COLUMNS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.home" \
	" FROM outbox.event e"

/*
 * Events of this database that the watermark does not show.  The comparison
 * of xid, which follows from the other condition, is for the index.
 */
#define OUR_EVENTS EVENT_COLUMNS \
	" WHERE e.home OPERATOR(pg_catalog.=) outbox.home()" \
	" AND e.xid OPERATOR(pg_catalog.>=) $1::pg_catalog.xid8" \
	" AND NOT pg_catalog.pg_visible_in_snapshot(e.xid, $2::pg_catalog.pg_snapshot)" \
	" ORDER BY e.id"

/* Events of adopted databases that their latest watermark does not show. */
#define ADOPTED_EVENTS EVENT_COLUMNS \
	" JOIN outbox.identity i ON i.home OPERATOR(pg_catalog.=) e.home" \
	"   AND i.adopted AND i.home OPERATOR(pg_catalog.<>) outbox.home()" \
	" LEFT JOIN (SELECT DISTINCT ON (home) home, snapshot" \
	"            FROM outbox.watermark ORDER BY home, id DESC) w" \
	"   ON w.home OPERATOR(pg_catalog.=) e.home" \
	" WHERE w.snapshot IS NULL" \
	" OR NOT pg_catalog.pg_visible_in_snapshot(e.xid, w.snapshot)" \
	" ORDER BY e.id"

/* A snapshot that shows nothing. */
#define NOTHING "1:1:"

/* Sends one row. */
static void
send_row(Relay *relay, HeapTuple tuple, TupleDesc desc, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Commit		commit = {0};
	Event		event;

	event_from_tuple(&event, tuple, desc);
	commit.time = event.created_at; /* that of the commit is not known */
	sender_event(relay, &event, &commit);
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * Sends the rows of a query, less the first *skip, which is counted down.
 * Returns the number of rows; stops when the pipeline breaks.
 */
static uint64
send_rows(Relay *relay, const char *query, int nargs, Oid *types, Datum *args,
		  uint64 *skip)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox catch-up",
												  ALLOCSET_DEFAULT_SIZES);
	Portal		cursor = SPI_cursor_open_with_args(NULL, query, nargs, types,
												   args, NULL, true, 0);
	uint64		sent = 0;

	while (!relay->broken &&
		   (SPI_cursor_fetch(cursor, true, FETCH_ROWS), SPI_processed > 0))
	{
		uint64		first = Min(*skip, SPI_processed);

		*skip -= first;
		for (uint64 i = first; i < SPI_processed; i++)
			send_row(relay, SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
					 context);
		sent += SPI_processed;
		SPI_freetuptable(SPI_tuptable);
		sender_poll(relay);
		relay_show(relay);
		CHECK_FOR_INTERRUPTS();
	}
	SPI_cursor_close(cursor);
	MemoryContextDelete(context);
	return sent;
}

/*
 * Sends what the current transaction's snapshot shows and no watermark does,
 * less the first "skip" events, until the pipeline breaks.
 */
static uint64
send_unpublished(Relay *relay, uint64 skip)
{
	Watermark  *watermark = watermark_latest(CurrentMemoryContext);
	const char *snapshot = watermark ? watermark->snapshot : NOTHING;
	char	   *lowest = pnstrdup(snapshot, strcspn(snapshot, ":"));
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		args[2] = {CStringGetTextDatum(lowest),
	CStringGetTextDatum(snapshot)};
	uint64		sent;

	sent = send_rows(relay, ADOPTED_EVENTS, 0, NULL, NULL, &skip);
	sent += send_rows(relay, OUR_EVENTS, 2, types, args, &skip);
	return sent;
}

/*
 * Waits until everything written to WAL so far is safe: on disk, and on
 * synchronous standbys.  What a snapshot shows need not be.
 */
static void
wait_until_safe(Relay *relay)
{
	XLogRecPtr	position = GetXLogInsertRecPtr();

	XLogFlush(position);
	while (decode_limit() < position)
		relay_wait(relay, UNSAFE_WAIT_MS);
}

/*
 * In an open transaction: publishes what its snapshot shows and no watermark
 * does, waits for Kafka, and ends the transaction.  Returns the number of
 * events; "reached" says how far it came, its snapshot to be freed by the
 * caller.
 */
static uint64
publish_snapshot(Relay *relay, Watermark *reached)
{
	uint64		sent;

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	reached->snapshot = watermark_current_snapshot(TopMemoryContext);
	wait_until_safe(relay);
	/* The same snapshot shows the same events in the same order again. */
	do
		sent = send_unpublished(relay, sender_begin(relay));
	while (!sender_finish(relay));
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);

	ledger_close_commit(relay->ledger, reached->lsn);
	deadletter_store(relay);
	return sent;
}

/* Stores how far it came. */
static void
settle(const Watermark *reached)
{
	watermark_store(reached);
	worker_begin_sql();
	identity_settle();
	worker_commit_sql();
}

/*
 * Creates the slot and publishes everything before it that no watermark
 * shows.  Returns when Kafka has acknowledged all of it and the slot is kept.
 * Needs a producer.
 */
void
catchup_run(Relay *relay)
{
	Watermark	reached;

	relay->working_state = RELAY_CATCHING_UP;
	/* A slot holds WAL: none before it can be of use. */
	sender_wait_connected(relay);
	relay_work(relay);
	decode_slot_create();
	reached.lsn = decode_confirmed();
	publish_snapshot(relay, &reached);
	exactly_once_reached(relay, &reached);
	settle(&reached);
	pfree(reached.snapshot);
	decode_slot_keep();
}

/*
 * One look at the table: publishes everything that has committed and no
 * watermark shows.  Returns the number of events.  Needs a producer, no slot.
 */
uint64
catchup_poll(Relay *relay)
{
	Watermark	reached;
	uint64		sent;

	StartTransactionCommand();
	XactIsoLevel = XACT_REPEATABLE_READ;
	XactReadOnly = true;
	reached.lsn = GetXLogInsertRecPtr();
	sent = publish_snapshot(relay, &reached);
	exactly_once_reached(relay, &reached);
	if (sent > 0)
		settle(&reached);
	shmem_relay_polled(reached.snapshot);
	pfree(reached.snapshot);
	return sent;
}
