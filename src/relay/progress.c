/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  How acknowledgements become a slot's position and a watermark.
 *
 * The slot lets the server remove WAL, and is where a relay goes on.  The
 * watermark tells everybody what is published, and survives the slot.
 *
 * A commit is in the WAL before snapshots show it, by a moment or, when its
 * session waits for a standby that we need not wait for, by long.  So after
 * the last event there are watermarks until one shows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/progress.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/steady.h"
#include "relay/deadletter.h"
#include "relay/decode.h"
#include "relay/published_set.h"
#include "relay/watermark.h"

#define SAVE_INTERVAL_MS 1000	/* of the slot */
#define WATERMARK_INTERVAL_MS 1000

/* Transactions that were sent and that the last proposal does not show. */
static PublishedSet sent = {0};

/*
 * Notes that an event of the stream is sent, or was by the relay before.  When
 * deliveries are exact, a set of their own tells.
 */
void
progress_note_event(const Relay *relay, const Event *event)
{
	if (relay->exact == NULL)
		published_set_add(&sent, event->xid, TopMemoryContext);
}

/*
 * Confirms to the slot what Kafka has acknowledged, after what it refused is
 * stored.
 */
void
progress_confirm(Relay *relay)
{
	static TimestampTz saved_at = 0;
	static bool unsaved = false;
	XLogRecPtr	position;
	TimestampTz now = steady_now();

	deadletter_store(relay);
	position = ledger_is_empty(relay->ledger) ?
		decode_position() : ledger_acknowledged(relay->ledger);

	if (position > relay->status.confirmed)
	{
		decode_confirm(position);
		relay->status.confirmed = position;
		shmem_relay_published(position);
		unsaved = true;
	}
	if (unsaved && TimestampDifferenceExceeds(saved_at, now, SAVE_INTERVAL_MS))
	{
		decode_save_slot();
		saved_at = now;
		unsaved = false;
	}
}

/*
 * Proposes a watermark now and then, and stores it once it is true.  Call it
 * right after progress_confirm(), which stores what was refused.
 */
void
progress_move_watermark(Relay *relay)
{
	static Watermark *proposal = NULL;
	static TimestampTz proposed_at = 0;
	static uint64 events_covered = 0;
	static uint64 events_proposed = 0;
	uint64		events = relay->status.events + relay->set_aside;
	TimestampTz now = steady_now();

	if (proposal && decode_position() >= proposal->lsn &&
		ledger_covers(relay->ledger, proposal->lsn))
	{
		watermark_store(proposal);
		events_covered = events_proposed;
		pfree(proposal->snapshot);
		pfree(proposal);
		proposal = NULL;
	}
	if (proposal == NULL && events != events_covered &&
		TimestampDifferenceExceeds(proposed_at, now, WATERMARK_INTERVAL_MS))
	{
		proposal = watermark_propose(TopMemoryContext);
		published_set_rebase(&sent, proposal->snapshot, TopMemoryContext);
		if (sent.nextras == 0)
			events_proposed = events;
		proposed_at = now;
	}
}
