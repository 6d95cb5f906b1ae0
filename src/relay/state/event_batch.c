/*-------------------------------------------------------------------------
 *
 * event_batch.c
 *	  Events out of the table, in memory.
 *
 * Sending may last as long as Kafka is away, and may write to the database
 * what Kafka refuses.  So the rows of a query are copied, and its transaction
 * ends before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/state/event_batch.h"

#include "access/htup_details.h"
#include "executor/spi.h"
#include "utils/memutils.h"

#include "event/event.h"

/*
 * Makes an empty batch in a memory context.
 */
EventBatch *
event_batch_create(MemoryContext context)
{
	EventBatch *batch = MemoryContextAlloc(context, sizeof(EventBatch));

	batch->context = AllocSetContextCreate(context, "outbox event batch",
										   ALLOCSET_DEFAULT_SIZES);
	batch->size = 0;
	return batch;
}

/*
 * Empties a batch.
 */
void
event_batch_reset(EventBatch *batch)
{
	MemoryContextReset(batch->context);
	batch->size = 0;
}

/*
 * Adds a row of the last query, whose first columns are those of EventColumn,
 * to a batch; returns the event.  Needs SPI.
 */
Event *
event_batch_add(EventBatch *batch, uint64 row)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	HeapTuple	tuple = heap_copytuple(SPI_tuptable->vals[row]);
	Event	   *event = &batch->events[batch->size];
	BatchPlace *place = &batch->places[batch->size];

	if (batch->size == BATCH_ROOM)
		elog(ERROR, "a transaction has more events than it had");
	/* That unpacks what is long. */
	event_from_tuple(event, tuple, SPI_tuptable->tupdesc);
	place->last_id = event->id;
	place->event = event;
	batch->size++;
	MemoryContextSwitchTo(old);
	return event;
}

/*
 * Has a batch room for more?
 */
bool
event_batch_has_room(const EventBatch *batch)
{
	return batch->size < BATCH_EVENTS &&
		MemoryContextMemAllocated(batch->context, true) < BATCH_BYTES;
}
