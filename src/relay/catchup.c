/*-------------------------------------------------------------------------
 *
 * catchup.c
 *	  Publishes events that no slot will deliver: those committed before the
 *	  slot existed.
 *
 * The slot is created first, and with it a snapshot that shows exactly what
 * committed before its first position.  What that snapshot shows and the
 * watermark does not is published out of the table, in the order of ids.
 * The slot lasts only from then on: when the relay dies before, the next one
 * begins again, and a missing slot is never a silent fresh start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/catchup.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/worker.h"
#include "relay/decode.h"
#include "relay/identity.h"
#include "relay/watermark.h"

#define FETCH_ROWS 500

/*
 * Events of this database, and of those that it has adopted, that the latest
 * watermark of their home does not show.  The columns are those of
 * EventColumn, in their order.
 */
#define UNPUBLISHED_EVENTS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.home" \
	" FROM outbox.event e" \
	" JOIN outbox.identity i ON i.home OPERATOR(pg_catalog.=) e.home" \
	"   AND (i.adopted OR i.home OPERATOR(pg_catalog.=) outbox.home())" \
	" LEFT JOIN (SELECT DISTINCT ON (home) home, snapshot" \
	"            FROM outbox.watermark ORDER BY home, id DESC) w" \
	"   ON w.home OPERATOR(pg_catalog.=) e.home" \
	" WHERE w.snapshot IS NULL" \
	" OR NOT pg_catalog.pg_visible_in_snapshot(e.xid, w.snapshot)" \
	" ORDER BY e.id"

/* Sends what the cursor holds. */
static void
send_rows(Relay *relay, Portal cursor)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox catch-up",
												  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		SPI_cursor_fetch(cursor, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(context);
			Commit		commit = {0};
			Event		event;

			event_from_tuple(&event, SPI_tuptable->vals[i],
							 SPI_tuptable->tupdesc);
			commit.time = event.created_at; /* that of the commit is not known */
			sender_event(relay, &event, &commit);
			MemoryContextSwitchTo(old);
			MemoryContextReset(context);
		}
		SPI_freetuptable(SPI_tuptable);
		sender_poll(relay);
		relay_show(relay);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(context);
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
	relay_work(relay);
	decode_slot_create();
	reached.lsn = decode_confirmed();

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	reached.snapshot = watermark_current_snapshot(TopMemoryContext);
	send_rows(relay, SPI_cursor_open_with_args(NULL, UNPUBLISHED_EVENTS, 0, NULL,
											   NULL, NULL, true, 0));
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();

	sender_drain(relay);
	ledger_close_commit(relay->ledger, reached.lsn);
	watermark_store(&reached);
	worker_begin_sql();
	identity_settle();
	worker_commit_sql();
	pfree(reached.snapshot);
	decode_slot_keep();
}
