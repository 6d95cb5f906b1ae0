/*-------------------------------------------------------------------------
 *
 * ending.c
 *	  How a relay ends, and how cautious that makes the next one.
 *
 * A relay ends in one of these ways:
 *
 *	 restart	on purpose: the launcher starts the next one at once, unless the
 *				database is held
 *	 later		on purpose, too, but the launcher makes one that got nothing
 *				done wait before it starts the next
 *	 told		by SIGTERM
 *	 error		the launcher makes the next one wait, whatever this one got done
 *
 * Whichever it is, the process leaves to the next one how far it has come (see
 * relay_leave.c).
 *
 * A relay that follows an error is cautious.  What ended the one before may be
 * that something cannot be stored, and what is sent without that being stored
 * is sent again by each relay that follows.  So it sends the first events one
 * at a time, and nothing before it is proved that what has to be stored about
 * it can be.  It stops being cautious once it has stored a dead letter, or has
 * lasted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/process/ending.h"

#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "registry/relay_entry.h"
#include "relay/state/event_batch.h"

#define LASTING_MS 60000		/* who ran for so long need not be cautious */

static TimestampTz began_at;	/* by monotonic_now() */
static bool cautious;			/* nothing is sent that could not be noted */

/*
 * Of a replay, or dead letters, at a time: one when cautious, so that what is
 * in front of one that cannot be stored is stored.
 */
static int	batch_events;

/*
 * This process begins, after one that may have ended with an error.
 */
void
ending_begin(void)
{
	began_at = monotonic_now();
	cautious = shmem_relay_failed();
	batch_events = cautious ? 1 : BATCH_EVENTS;
}

/*
 * This process has got something done: the next one need not wait, unless an
 * error ends this one.
 */
void
ending_progressed(void)
{
	static bool told = false;

	if (!told)
		shmem_relay_progress();
	told = true;
}

/*
 * Ends the process on purpose; the launcher starts the next one at once,
 * unless the database is held.
 */
void
ending_restart(void)
{
	shmem_relay_progress();
	proc_exit(0);
}

/*
 * The same, but the launcher makes a process that got nothing done wait before
 * it starts the next.
 */
void
ending_restart_later(void)
{
	proc_exit(0);
}

/*
 * Did a relay before this one end with an error, perhaps because it could not
 * store something?  Then nothing may be sent before that can be stored.
 */
bool
ending_is_cautious(void)
{
	return cautious;
}

/*
 * What the relay before this one may have failed to store is stored.
 */
void
ending_proved(void)
{
	cautious = false;
}

/*
 * How many events of a replay, or dead letters, to send before what became of
 * them is stored.
 */
int
ending_batch_events(void)
{
	return batch_events;
}

/*
 * A batch of a replay, or of dead letters, is on Kafka and that is stored: the
 * next one may be larger, if this relay need not be cautious, or has lasted.
 */
void
ending_batch_done(void)
{
	if (cautious &&
		TimestampDifferenceExceeds(began_at, monotonic_now(), LASTING_MS))
		cautious = false;
	if (!cautious)
		batch_events = Min(2 * batch_events, BATCH_EVENTS);
}
