/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  Commits that await acknowledgement, oldest first.
 *
 * A ring of commits in the order of their commit records.  Each event that is
 * sent counts up its commit's outstanding events, each acknowledgement counts
 * them down, in whatever order they arrive.  The slot may be confirmed up to
 * the end of the last commit before the first that is still open or has
 * something outstanding.
 *
 * Pure bookkeeping: no I/O, no globals.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/ledger.h"

#include "utils/memutils.h"

#define LEDGER_INITIAL_SIZE 1024	/* a power of two */

typedef struct LedgerEntry
{
	XLogRecPtr	end;			/* end of the commit record; invalid while the
								 * transaction's events are still being sent */
	TimestampTz commit_time;
	uint64		outstanding;	/* sent and not acknowledged */
	uint64		first;			/* number of its first event */
} LedgerEntry;

struct Ledger
{
	LedgerEntry *ring;
	uint64		size;			/* a power of two */
	uint64		head;			/* number of the oldest entry */
	uint64		tail;			/* number of the next entry */
	bool		open;			/* is the newest entry's commit still open? */
	uint64		events;			/* ever added */
	XLogRecPtr	acknowledged;
};

#define ENTRY(ledger, n) (&(ledger)->ring[(n) & ((ledger)->size - 1)])

/*
 * Makes an empty ledger in the given memory context.
 */
Ledger *
ledger_create(MemoryContext context)
{
	Ledger	   *ledger = MemoryContextAllocZero(context, sizeof(Ledger));

	ledger->size = LEDGER_INITIAL_SIZE;
	ledger->ring = MemoryContextAlloc(context,
									  ledger->size * sizeof(LedgerEntry));
	return ledger;
}

/* Doubles the ring.  Entries keep their numbers. */
static void
ledger_grow(Ledger *ledger)
{
	uint64		size = ledger->size * 2;
	LedgerEntry *ring = MemoryContextAllocHuge(GetMemoryChunkContext(ledger->ring),
											   size * sizeof(LedgerEntry));

	for (uint64 n = ledger->head; n != ledger->tail; n++)
		ring[n & (size - 1)] = *ENTRY(ledger, n);
	pfree(ledger->ring);
	ledger->ring = ring;
	ledger->size = size;
}

/*
 * Counts one event of the commit that is being decoded, and opens an entry
 * for its first.  Returns the number to acknowledge it with.
 */
uint64
ledger_add_event(Ledger *ledger, TimestampTz commit_time)
{
	if (!ledger->open)
	{
		LedgerEntry *entry;

		if (ledger->tail - ledger->head == ledger->size)
			ledger_grow(ledger);
		entry = ENTRY(ledger, ledger->tail);
		entry->end = InvalidXLogRecPtr;
		entry->commit_time = commit_time;
		entry->outstanding = 0;
		entry->first = ledger->events;
		ledger->tail++;
		ledger->open = true;
	}
	ledger->events++;
	ENTRY(ledger, ledger->tail - 1)->outstanding++;
	return ledger->tail - 1;
}

/* Drops finished entries at the old end. */
static void
ledger_advance(Ledger *ledger)
{
	while (ledger->head != ledger->tail)
	{
		LedgerEntry *entry = ENTRY(ledger, ledger->head);

		if (XLogRecPtrIsInvalid(entry->end) || entry->outstanding > 0)
			break;
		ledger->acknowledged = entry->end;
		ledger->head++;
	}
}

/*
 * The commit that is being decoded is complete; its record ends at "end".
 * Does nothing when it had no events.
 */
void
ledger_close_commit(Ledger *ledger, XLogRecPtr end)
{
	if (!ledger->open)
		return;
	ENTRY(ledger, ledger->tail - 1)->end = end;
	ledger->open = false;
	ledger_advance(ledger);
}

/*
 * One event of the entry has been acknowledged.
 */
void
ledger_acknowledge(Ledger *ledger, uint64 number)
{
	Assert(number >= ledger->head && number < ledger->tail);
	Assert(ENTRY(ledger, number)->outstanding > 0);
	ENTRY(ledger, number)->outstanding--;
	if (number == ledger->head)
		ledger_advance(ledger);
}

/*
 * Is everything acknowledged that was committed at or before position, given
 * that decoding has come that far?
 */
bool
ledger_covers(const Ledger *ledger, XLogRecPtr position)
{
	XLogRecPtr	end;

	if (ledger_is_empty(ledger))
		return true;
	end = ENTRY(ledger, ledger->head)->end;
	return !XLogRecPtrIsInvalid(end) && end > position;
}

/*
 * Number of events that would be decoded again after a restart from the
 * acknowledged position.
 */
uint64
ledger_unconfirmed_events(const Ledger *ledger)
{
	if (ledger_is_empty(ledger))
		return 0;
	return ledger->events - ENTRY(ledger, ledger->head)->first;
}

/*
 * Is everything that was sent acknowledged, and no commit open?
 */
bool
ledger_is_empty(const Ledger *ledger)
{
	return ledger->head == ledger->tail;
}

/*
 * End of the last commit up to which everything is acknowledged; invalid
 * when no commit with events has been yet.
 */
XLogRecPtr
ledger_acknowledged(const Ledger *ledger)
{
	return ledger->acknowledged;
}

/*
 * Commit time of the oldest commit that awaits acknowledgement; 0 when there
 * is none.
 */
TimestampTz
ledger_oldest_commit(const Ledger *ledger)
{
	if (ledger_is_empty(ledger))
		return 0;
	return ENTRY(ledger, ledger->head)->commit_time;
}
