/*-------------------------------------------------------------------------
 *
 * event_batch.h
 *	  Events out of the table, in memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_BATCH_H
#define OUTBOX_EVENT_BATCH_H

#include "postgres.h"

#include "event/event.h"

/* Events read at once: so many, or of so many bytes, whichever is less. */
#define BATCH_EVENTS 500
#define BATCH_BYTES (1024 * 1024)

/* Those of small transactions that end among them come on top. */
#define BATCH_ROOM (2 * BATCH_EVENTS)

/* Where an event is to be sent. */
typedef struct BatchPlace
{
	int64		last_id;		/* the last event of its transaction, or an id
								 * between those of its own */
	const Event *event;
} BatchPlace;

/* Events in memory, so that no transaction is open while they are sent. */
typedef struct EventBatch
{
	MemoryContext context;		/* holds what they point to */
	int			size;
	BatchPlace	places[BATCH_ROOM]; /* in the order of sending */
	Event		events[BATCH_ROOM]; /* in that of reading */
} EventBatch;

extern EventBatch *event_batch_create(MemoryContext context);
extern void event_batch_reset(EventBatch *batch);
extern Event *event_batch_add(EventBatch *batch, uint64 row);
extern bool event_batch_has_room(const EventBatch *batch);

#endif							/* OUTBOX_EVENT_BATCH_H */
