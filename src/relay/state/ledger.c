/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  Commits that await acknowledgement, oldest first.
 *
 * Events are numbered as they are sent.  A bitmap tells which of those after
 * "base" are acknowledged, in whatever order that happens; base moves over
 * those that are.  A ring holds the commits that base has not passed.  The
 * slot may be confirmed up to the end of the last commit that it has passed,
 * and a successor can go on at base exactly, in the middle of a transaction.
 *
 * Pure bookkeeping: no I/O, no globals.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/state/ledger.h"

#include "utils/memutils.h"

#include "relay/state/commit.h"

#define INITIAL_COMMITS 1024	/* a power of two */
#define INITIAL_EVENTS 65536	/* likewise, and a multiple of 8 */

typedef struct LedgerEntry
{
	XLogRecPtr	end;			/* end of the commit record; invalid while the
								 * transaction's events are still being sent */
	XLogRecPtr	commit;			/* the same from the start; invalid for events
								 * that are not of a commit */
	TimestampTz commit_time;
	uint64		first;			/* number of its first event */
	uint64		after;			/* one more than that of its last */
} LedgerEntry;

struct Ledger
{
	/* commits */
	LedgerEntry *ring;
	uint64		size;			/* of the ring, a power of two */
	uint64		head;			/* number of the oldest entry */
	uint64		tail;			/* number of the next entry */
	bool		open;			/* are the newest entry's events still coming? */
	XLogRecPtr	acknowledged;

	/* events */
	uint8	   *bits;			/* bit n % capacity: event n is acknowledged */
	uint64		capacity;		/* of bits, a power of two */
	uint64		base;			/* everything before is acknowledged */
	uint64		next;			/* number of the next event */
};

#define ENTRY(ledger, n) (&(ledger)->ring[(n) & ((ledger)->size - 1)])
#define BIT_BYTE(ledger, n) ((ledger)->bits[((n) & ((ledger)->capacity - 1)) / 8])
#define BIT_MASK(n) (1 << ((n) % 8))

/*
 * Makes an empty ledger in the given memory context.
 */
Ledger *
ledger_create(MemoryContext context)
{
	Ledger	   *ledger = MemoryContextAllocZero(context, sizeof(Ledger));

	ledger->size = INITIAL_COMMITS;
	ledger->ring = MemoryContextAlloc(context,
									  ledger->size * sizeof(LedgerEntry));
	ledger->capacity = INITIAL_EVENTS;
	ledger->bits = MemoryContextAllocZero(context, ledger->capacity / 8);
	return ledger;
}

/* Doubles the ring.  Entries keep their numbers. */
static void
grow_ring(Ledger *ledger)
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

/* Doubles the bitmap.  Events keep their numbers. */
static void
grow_bits(Ledger *ledger)
{
	uint64		capacity = ledger->capacity * 2;
	uint8	   *bits = MemoryContextAllocZero(GetMemoryChunkContext(ledger->bits),
											  capacity / 8);

	for (uint64 n = ledger->base; n != ledger->next; n++)
		if (BIT_BYTE(ledger, n) & BIT_MASK(n))
			bits[(n & (capacity - 1)) / 8] |= BIT_MASK(n);
	pfree(ledger->bits);
	ledger->bits = bits;
	ledger->capacity = capacity;
}

/*
 * Counts one event of the commit that is being decoded.  Returns the number
 * to acknowledge it with.
 */
uint64
ledger_add_event(Ledger *ledger, const Commit *commit)
{
	if (!ledger->open)
	{
		LedgerEntry *entry;

		if (ledger->tail - ledger->head == ledger->size)
			grow_ring(ledger);
		entry = ENTRY(ledger, ledger->tail);
		entry->end = InvalidXLogRecPtr;
		entry->commit = commit->end;
		entry->commit_time = commit->time;
		entry->first = entry->after = ledger->next;
		ledger->tail++;
		ledger->open = true;
	}
	if (ledger->next - ledger->base == ledger->capacity)
		grow_bits(ledger);
	ENTRY(ledger, ledger->tail - 1)->after++;
	return ledger->next++;
}

/* Drops commits that are acknowledged. */
static void
drop_finished(Ledger *ledger)
{
	while (ledger->head != ledger->tail)
	{
		LedgerEntry *entry = ENTRY(ledger, ledger->head);

		if (XLogRecPtrIsInvalid(entry->end) || entry->after > ledger->base)
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
	drop_finished(ledger);
}

/*
 * Forgets the events that are not acknowledged: they will be added again.
 * Only for events of one commit, which is still open.
 */
void
ledger_rewind(Ledger *ledger)
{
	Assert(ledger->open && ledger->tail - ledger->head == 1);
	for (uint64 n = ledger->base; n != ledger->next; n++)
		BIT_BYTE(ledger, n) &= ~BIT_MASK(n);
	ledger->next = ledger->base;
	ENTRY(ledger, ledger->head)->after = ledger->base;
}

/*
 * The event of that number has been acknowledged.
 */
void
ledger_acknowledge(Ledger *ledger, uint64 number)
{
	Assert(number >= ledger->base && number < ledger->next);
	BIT_BYTE(ledger, number) |= BIT_MASK(number);
	if (number != ledger->base)
		return;
	while (ledger->base != ledger->next &&
		   (BIT_BYTE(ledger, ledger->base) & BIT_MASK(ledger->base)))
	{
		BIT_BYTE(ledger, ledger->base) &= ~BIT_MASK(ledger->base);
		ledger->base++;
	}
	drop_finished(ledger);
}

/*
 * All events so far have been acknowledged.
 */
void
ledger_acknowledge_all(Ledger *ledger)
{
	for (uint64 n = ledger->base; n != ledger->next; n++)
		BIT_BYTE(ledger, n) &= ~BIT_MASK(n);
	ledger->base = ledger->next;
	drop_finished(ledger);
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

/*
 * From where a successor goes on.
 */
LedgerPosition
ledger_position(const Ledger *ledger)
{
	LedgerPosition position = {.acknowledged = ledger->acknowledged,
		.next = ledger->base,
	.outstanding = ledger->next - ledger->base};

	if (!ledger_is_empty(ledger))
	{
		LedgerEntry *entry = ENTRY(ledger, ledger->head);

		position.commit = entry->commit;
		position.events = Min(ledger->base, entry->after) - entry->first;
	}
	return position;
}
