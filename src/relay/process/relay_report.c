/*-------------------------------------------------------------------------
 *
 * relay_report.c
 *	  What a relay shows of itself, and what its log says when it waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/process/relay_report.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/producer/producer.h"
#include "registry/databases.h"
#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"
#include "relay/wal/slot_decoder.h"

#define SHOW_INTERVAL_MS 100

/*
 * Publishes the status, but not too often.
 */
void
relay_show(Relay *relay)
{
	TimestampTz now = monotonic_now();
	const ProducerStats *stats;

	if (!TimestampDifferenceExceeds(relay->shown_at, now, SHOW_INTERVAL_MS))
		return;
	relay->shown_at = now;
	relay->status.oldest_commit = ledger_oldest_commit(relay->ledger);
	if (slot_decoder_is_open())
		relay->status.pinned_by = slot_decoder_oldest_open();
	if (relay->note_source)
		relay->note_source(relay);
	if (relay->producer)
	{
		stats = producer_stats(relay->producer);
		relay->status.retries = relay->retries_before + stats->retries;
		relay->status.round_trip_us = stats->round_trip_us;
	}
	shmem_relay_publish(&relay->status);
}

/*
 * Publishes the status at once.
 */
void
relay_show_now(Relay *relay)
{
	relay->shown_at = 0;
	relay_show(relay);
}

/*
 * Nothing is in the way (any more): shows the working state.  Not while an
 * event is held that was not accepted before.
 */
void
relay_work(Relay *relay)
{
	if (relay->held)
		return;
	relay->logged_state = relay->working_state;
	if (relay->status.state == relay->working_state)
		return;
	shmem_set_state(&relay->status, relay->working_state);
	relay_show_now(relay);
}

/*
 * Something is in the way: shows the state and why.  Logs it when it begins,
 * not while it lasts.
 */
void
relay_obstacle(Relay *relay, RelayState state, const char *message)
{
	shmem_set_state(&relay->status, state);
	if (message != relay->status.error)
		strlcpy(relay->status.error, message, RELAY_ERROR_LEN);
	relay->status.error_at = GetCurrentTimestamp();
	relay_show_now(relay);
	if (relay->logged_state == state)
		return;
	relay->logged_state = state;
	ereport(LOG,
			(errmsg("outbox relay waits: %s", message),
			 errdetail("Nothing is lost: events stay in the database until Kafka has them.")));
}
