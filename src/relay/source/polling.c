/*-------------------------------------------------------------------------
 *
 * polling.c
 *	  The polling publisher: looks at the table again and again, woken by those
 *	  who publish.
 *
 * For good where there is no logical decoding.  Else until there is a slot:
 * that can take as long as other transactions like.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/polling.h"

#include "core/guc.h"
#include "registry/relay_values.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/source/catchup.h"
#include "relay/source/dead_letter_retry.h"
#include "relay/source/replay.h"
#include "relay/state/relay.h"
#include "relay/table/event_index_summary.h"
#include "relay/wal/slot_creation.h"

/*
 * A look that finds so many events is followed by another one, before a slot
 * may hold WAL; but only while they find less and less.  Else as much is
 * published meanwhile, and always will be.
 */
#define BACKLOG_EVENTS 10000

/* From one look to the next, while a slot is being created; doubles. */
#define FIRST_PAUSE_MS 10
#define MAX_PAUSE_MS 1000

/*
 * Does, after a look at the table that found so many events, what else is due.
 * Returns whether there is more to do.
 */
static bool
tend(Relay *relay, uint64 found)
{
	bool		more;

	relay->caught_up = true;
	event_index_summarize(found);
	/* Also when there was nothing to send: events wake us. */
	sender_poll(relay);
	connection_check(relay);
	relay_show_now(relay);
	more = dead_letter_retry_step(relay);
	more |= replay_step(relay);
	dead_letters_store(relay);
	return more;
}

/*
 * Looks at the table until something ends the process.
 */
void
polling_run(Relay *relay)
{
	relay->working_state = RELAY_POLLING;
	while (capture_is_polling())
	{
		uint64		found = catchup_poll(relay);
		bool		more = tend(relay, found) || found > 0;

		if (more)
			relay_handle_latch(relay);
		else
			relay_wait(relay, dead_letter_retry_wait_ms(relay, outbox_poll_interval));
	}
	ending_restart();
}

/*
 * Publishes from the table until there is a slot to go on with.  When that
 * takes long the state says that the relay polls.
 */
void
polling_until_slot(Relay *relay)
{
	int			pause_ms = FIRST_PAUSE_MS;
	uint64		before = PG_UINT64_MAX;

	relay->working_state = RELAY_CATCHING_UP;
	/* A slot holds WAL: none before it can be of use. */
	connection_wait(relay);
	relay_work(relay);
	for (;;)
	{
		uint64		found = catchup_poll(relay);
		bool		more = found >= BACKLOG_EVENTS && found < before / 4 * 3;

		before = found;
		if (!more && catchup_reach_slot(relay))
			break;
		more |= slot_creation_has_more();
		more |= tend(relay, found);
		if (capture_is_polling())
			ending_restart();
		if (more)
			relay_handle_latch(relay);
		else
			relay_wait(relay, dead_letter_retry_wait_ms(relay, pause_ms));
		pause_ms = Min(2 * pause_ms, Min(outbox_poll_interval, MAX_PAUSE_MS));
		if (pause_ms >= MAX_PAUSE_MS)
			relay->working_state = RELAY_POLLING;
	}
}
