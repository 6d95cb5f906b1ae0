/*-------------------------------------------------------------------------
 *
 * slot_limit.c
 *	  Keeps the relay's slot within outbox.max_slot_wal.
 *
 * Of slots that no relay holds the launcher takes care
 * (core/replication_slot.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/process/slot_limit.h"

#include "core/guc.h"
#include "relay/process/ending.h"
#include "relay/state/relay.h"
#include "relay/wal/running_xacts.h"
#include "relay/wal/slot_decoder.h"

#define MEBIBYTE (1024 * 1024)

/* A slot may hold so much when all is well, whatever the setting says. */
#define WORKING_WAL_MB 64

/* Gives the slot up and starts over: the events are in the table as well. */
static void
give_up_slot(const char *detail)
{
	ereport(LOG,
			(errmsg("outbox relay gives up its replication slot, which holds more than outbox.max_slot_wal"),
			 errdetail("Nothing is lost: it takes the events from the table. %s",
					   detail)));
	slot_decoder_slot_drop();
	ending_restart();
}

/*
 * Gives the slot up when it holds too much WAL: because Kafka does not take the
 * events, or not as fast as they come; or because a transaction is open that
 * began long ago.  What is done with stays a while without such a one, too,
 * until the server has written to the WAL which transactions run.
 *
 * To be called now and then.  Ends the process when the slot is given up.
 */
void
slot_limit_keep(Relay *relay)
{
	uint64		limit = outbox_max_slot_wal;
	uint64		owed;
	uint64		pinned;

	if (outbox_max_slot_wal < 0 || !slot_decoder_has_slot())
		return;
	if (relay->status.state == relay->working_state)
		limit = Max(limit, WORKING_WAL_MB);
	limit *= MEBIBYTE;
	slot_decoder_held_wal(&owed, &pinned);
	if (owed > limit)
		give_up_slot("What the slot holds waits for Kafka.");
	if (pinned >= limit / 2)
		running_write();
	if (pinned >= limit && slot_decoder_open_wal() >= limit / 2)
		give_up_slot("The slot holds it for a transaction that is still open; when that has ended there will be a new one.");
}
