/*-------------------------------------------------------------------------
 *
 * relay_leave.c
 *	  What a relay does before its process ends, in whatever way.
 *
 * The process leaves to the next one how far it has come (resume_point.c), as
 * far as what it set aside is stored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/main/relay_leave.h"

#include "storage/ipc.h"

#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/progress/resume_point.h"
#include "relay/source/catchup_round.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"
#include "relay/wal/slot_decoder.h"

#define CAUTIOUS_EVENTS 1000	/* sent one at a time after an error */

/* For acknowledgements as the process ends: when it is told to, or by itself. */
#define TOLD_LEAVE_MS 500
#define OWN_LEAVE_MS 2000

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

	if (relay->exact || !dead_letters_unstored(&position, &id))
		return;
	resume_point_leave(relay, &position);
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
	slot_decoder_leave();
	sender_close(relay);
	leave_in_front(relay);
	if (dead_letters_leave(relay))
	{
		LedgerPosition position = ledger_position(relay->ledger);

		resume_point_leave(relay, &position);
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
leaving_begin(Relay *relay)
{
	ending_begin();
	resume_point_take(relay);
	/* What ended the one before us is among the first events. */
	if (ending_is_cautious())
		relay->alone_left = Max(relay->alone_left, CAUTIOUS_EVENTS);
	before_shmem_exit(leave, PointerGetDatum(relay));
}
