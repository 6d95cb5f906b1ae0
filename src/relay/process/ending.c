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
 * resume_point.c), as far as what it set aside is stored.
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
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/sender.h"
#include "relay/main/relay_main.h"
#include "relay/progress/resume_point.h"
#include "relay/source/catchup_round.h"
#include "relay/state/event_batch.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"
#include "relay/wal/slot_decoder.h"

#define CAUTIOUS_EVENTS 1000	/* sent one at a time after an error */
#define LASTING_MS 60000		/* who ran for so long need not be cautious */

/* For acknowledgements as the process ends: when it is told to, or by itself. */
#define TOLD_LEAVE_MS 500
#define OWN_LEAVE_MS 2000

static TimestampTz began_at;	/* by steady_now() */
static bool cautious;			/* nothing is sent that could not be noted */

/*
 * Of a replay, or dead letters, at a time: one when cautious, so that what is
 * in front of one that cannot be stored is stored.
 */
static int	batch_events;

/*
 * Something was set aside and is not stored, and perhaps cannot be, which ends
 * the process for good.  So what is in front of it is told to the next relay
 * first.
 */
static void
leave_in_front(Relay *relay)
{
	LedgerPosition position;
	int64		id;

	if (relay->exact || !deadletter_unstored(&position, &id))
		return;
	handover_leave(relay, &position);
	catchup_leave_before(relay, id);
}

/* Shows what was done last and closes the producer before the process ends. */
static void
leave(int code, Datum arg)
{
	Relay	   *relay = (Relay *) DatumGetPointer(arg);
	bool		patient = code == 0 &&
	relay->status.state == relay->working_state;

	exactly_once_leave(relay);
	sender_leave(relay, patient ? OWN_LEAVE_MS : TOLD_LEAVE_MS);
	decode_leave();
	sender_close(relay);
	leave_in_front(relay);
	if (deadletter_leave(relay))
	{
		LedgerPosition position = ledger_position(relay->ledger);

		handover_leave(relay, &position);
		catchup_leave(relay);
	}
	relay->shown_at = 0;
	relay_show(relay);
}

/*
 * Takes over what the relay before this one left, and from now on leaves the
 * same to the next one, however the process ends.
 */
void
ending_begin(Relay *relay)
{
	began_at = steady_now();
	cautious = shmem_relay_failed();
	batch_events = cautious ? 1 : BATCH_EVENTS;
	handover_take(relay);
	/* What ended the one before us is among the first events. */
	if (cautious)
		relay->careful = Max(relay->careful, CAUTIOUS_EVENTS);
	before_shmem_exit(leave, PointerGetDatum(relay));
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
		TimestampDifferenceExceeds(began_at, steady_now(), LASTING_MS))
		cautious = false;
	if (!cautious)
		batch_events = Min(2 * batch_events, BATCH_EVENTS);
}
