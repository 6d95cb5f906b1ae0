/*-------------------------------------------------------------------------
 *
 * catchup_read.h
 *	  Reads the events of a round of catch-up, a batch at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_READ_H
#define OUTBOX_CATCHUP_READ_H

#include "postgres.h"

#include "publish/event.h"
#include "relay/catchup_store.h"

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
	Event		events[BATCH_ROOM];
} EventBatch;

typedef struct CatchupReader CatchupReader;

extern CatchupReader *catchup_reader_open(const CatchupProgress *progress,
										  const CatchupRange *range,
										  MemoryContext context);
extern bool catchup_reader_next(CatchupReader *reader, EventBatch *batch);
extern void catchup_reader_close(CatchupReader *reader);

#endif							/* OUTBOX_CATCHUP_READ_H */
