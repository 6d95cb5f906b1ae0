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
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "relay/decode.h"

#define FETCH_ROWS 500

/* The columns are those of EventColumn, in their order. */
#define UNPUBLISHED_EVENTS \
	"SELECT id, event_id, aggregate_type, aggregate_id, event_type, payload," \
	" content_type, headers, topic, partition_key, deliver_at, created_at," \
	" xid, chunk FROM outbox.event" \
	" WHERE $1 IS NULL" \
	" OR NOT pg_catalog.pg_visible_in_snapshot(xid, $1::pg_catalog.pg_snapshot)" \
	" ORDER BY id"

/* Opens a cursor over what the watermark does not show. */
static Portal
open_cursor(const Watermark *watermark)
{
	Oid			type = TEXTOID;
	Datum		snapshot = (Datum) 0;
	char		null = 'n';

	if (watermark)
	{
		snapshot = CStringGetTextDatum(watermark->snapshot);
		null = ' ';
	}
	return SPI_cursor_open_with_args(NULL, UNPUBLISHED_EVENTS, 1, &type,
									 &snapshot, &null, true, 0);
}

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
 * Creates the slot and publishes everything before it that the watermark
 * (NULL for none) does not show.  Returns when Kafka has acknowledged all of
 * it and the slot is kept.  Needs a producer.
 */
void
catchup_run(Relay *relay, const Watermark *watermark)
{
	Watermark	reached;

	relay->working_state = RELAY_CATCHING_UP;
	relay_work(relay);
	decode_slot_create();
	reached.lsn = decode_confirmed();

	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	reached.snapshot = watermark_current_snapshot(TopMemoryContext);
	send_rows(relay, open_cursor(watermark));
	PopActiveSnapshot();
	SPI_finish();
	CommitTransactionCommand();

	sender_drain(relay);
	ledger_close_commit(relay->ledger, reached.lsn);
	watermark_store(&reached);
	pfree(reached.snapshot);
	decode_slot_keep();
}
