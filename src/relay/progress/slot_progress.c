/*-------------------------------------------------------------------------
 *
 * slot_progress.c
 *	  How acknowledgements become a slot's position and a watermark.
 *
 * The slot lets the server remove WAL, and is where a relay goes on.  The
 * watermark tells everybody what is published, and survives the slot.
 *
 * A commit is in the WAL before snapshots show it, by a moment or, when its
 * session waits for a standby that we need not wait for, by long.  So after
 * the last event there are watermarks until one shows it.
 *
 * A snapshot of now is of use when all WAL so far has been dealt with.  While
 * a backlog is worked off, that takes as long as the backlog.  Meanwhile there
 * are the snapshots that were written to the WAL when it came about
 * (running_xacts.c): each becomes a watermark once all that is in front of it
 * is acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/progress/slot_progress.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "event/event.h"
#include "registry/relay_entry.h"
#include "relay/delivery/dead_letters.h"
#include "relay/state/ledger.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"
#include "relay/state/watermark.h"
#include "relay/table/watermark_table.h"
#include "relay/wal/running_xacts.h"
#include "relay/wal/slot_decoder.h"

#define SAVE_INTERVAL_MS 1000	/* of the slot */
#define WATERMARK_INTERVAL_MS 1000

/* Transactions that were sent and that the last proposal does not show. */
static PublishedSet sent = {0};

/* The watermark that was stored last. */
static XLogRecPtr stored_lsn = InvalidXLogRecPtr;
static TimestampTz stored_at = 0;

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
	TimestampTz now = monotonic_now();

	dead_letters_store(relay);
	position = ledger_is_empty(relay->ledger) ?
		slot_decoder_position() : ledger_acknowledged(relay->ledger);

	if (position > relay->status.confirmed)
	{
		slot_decoder_confirm(position);
		relay->status.confirmed = position;
		shmem_relay_published(position);
		unsaved = true;
	}
	if (unsaved && TimestampDifferenceExceeds(saved_at, now, SAVE_INTERVAL_MS))
	{
		slot_decoder_save_slot();
		saved_at = now;
		unsaved = false;
	}
}

/* A watermark came true: stores it, unless a later one is stored. */
static void
store(const Watermark *watermark)
{
	if (watermark->lsn <= stored_lsn)
		return;
	watermark_store(watermark);
	stored_lsn = watermark->lsn;
	stored_at = monotonic_now();
}

static void
forget(Watermark **watermark)
{
	pfree((*watermark)->snapshot);
	pfree(*watermark);
	*watermark = NULL;
}

/*
 * Is everything acknowledged that the watermark shows?
 */
static bool
is_true(const Relay *relay, const Watermark *watermark)
{
	return slot_decoder_position() >= watermark->lsn &&
		ledger_covers(relay->ledger, watermark->lsn);
}

/*
 * Stores a snapshot that decoding has come by, once it is true, but not too
 * often.
 */
static void
store_running(Relay *relay)
{
	static Watermark *next = NULL;	/* the first that is not true yet, or not
									 * yet due */

	if (next == NULL && (next = running_take()) != NULL)
		published_set_rebase(&sent, next->snapshot, TopMemoryContext);
	if (next == NULL || !is_true(relay, next) ||
		!TimestampDifferenceExceeds(stored_at, monotonic_now(), WATERMARK_INTERVAL_MS))
		return;
	store(next);
	forget(&next);
}

/*
 * The relay begins to stream: from here on watermarks are later than the one
 * that it goes on from.
 */
void
progress_begin(void)
{
	Watermark  *watermark = watermark_load(CurrentMemoryContext);

	stored_lsn = watermark ? watermark->lsn : InvalidXLogRecPtr;
	stored_at = monotonic_now();
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
	TimestampTz now = monotonic_now();

	store_running(relay);
	if (proposal && is_true(relay, proposal))
	{
		store(proposal);
		events_covered = events_proposed;
		forget(&proposal);
	}
	else if (proposal && TimestampDifferenceExceeds(proposed_at, now,
													WATERMARK_INTERVAL_MS))
		running_write();
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
