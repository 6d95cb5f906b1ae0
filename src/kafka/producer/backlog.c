/*-------------------------------------------------------------------------
 *
 * backlog.c
 *	  Whether there is a backlog, and what follows from that.
 *
 * While there is a backlog nobody waits for a single event, and processors are
 * the limit sooner than the round trip: a few handles with large batches of
 * several partitions each are faster than one handle for each partition.  See
 * partition_placement.c for how many there are.  And more comes at once, so that it is worth
 * while to let batches grow: see flush.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/backlog.h"

#include "utils/timestamp.h"

#define ENOUGH_PART 3			/* of what may be under way, that makes large
								 * batches */
#define BEHIND_MS 30			/* for which there is always more to send */
#define BACKLOG_MS 500			/* for which a backlog is remembered */

/* Is as much under way as makes the owner wait? */
static bool
is_half_full(const Producer *producer)
{
	return producer->outstanding >= producer->max_outstanding / 2;
}

/*
 * Is there a backlog, and so little under way that batches are to grow before
 * they are sent?  If they are being sent, they go on for a while.  There is
 * nothing to wait for until there is more, or room for it.
 */
bool
backlog_grows(const Producer *producer, bool flushed)
{
	uint64		enough = producer->max_outstanding / ENOUGH_PART;

	return producer->backlog && !producer->caught_up && !producer->refused &&
		producer->outstanding < (flushed ? enough / 2 : enough);
}

/*
 * There is nothing more to send for now, unless there is no room for it.
 */
void
backlog_note_caught_up(Producer *producer)
{
	producer->caught_up = !producer->refused;
}

/*
 * Finds out whether there is a backlog: the owner has not caught up for a while,
 * whether it is the faster one or brokers are.
 */
void
backlog_poll(Producer *producer, TimestampTz now)
{
	if (producer->caught_up)
		producer->caught_up_at = now;
	producer->caught_up = false;
	if (TimestampDifferenceExceeds(producer->caught_up_at, now, BEHIND_MS) ||
		is_half_full(producer))
		producer->backlog_at = now;
	producer->backlog = producer->backlog_at != 0 &&
		!TimestampDifferenceExceeds(producer->backlog_at, now, BACKLOG_MS);
	if (!producer->backlog)
		producer->nused = 0;
}
