/*-------------------------------------------------------------------------
 *
 * batch_turn.c
 *	  When something may be sent out of turn.
 *
 * Replays, dead letters that are sent again, and what was parked or waited
 * behind them come out of tables, in batches.  A batch is sent when nothing else
 * is in flight, and new events wait for it.  Where there are always new events,
 * what is in flight is waited for, but batches get half of the time at most:
 * when one has been sent, the next one waits for as long as that took.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/batch_turn.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"

/* Until then new events have their turn; by monotonic_now(). */
static TimestampTz pause_until = 0;

/*
 * May a batch be sent, once what is in flight has been waited for?
 */
bool
batch_turn_is_due(const Relay *relay)
{
	return ledger_is_empty(relay->ledger) || monotonic_now() >= pause_until;
}

/*
 * A batch was sent that was begun then.  Now new events have their turn, for so
 * many ms at least.
 */
void
batch_turn_end(TimestampTz began, int least_pause_ms)
{
	TimestampTz now = monotonic_now();

	pause_until = Max(now + (now - began),
					  TimestampTzPlusMilliseconds(now, least_pause_ms));
}

/*
 * How long, in ms, new events still have their turn.
 */
long
batch_turn_wait_ms(TimestampTz now)
{
	return TimestampDifferenceMilliseconds(now, pause_until);
}
