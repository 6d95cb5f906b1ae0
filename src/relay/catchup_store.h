/*-------------------------------------------------------------------------
 *
 * catchup_store.h
 *	  What catch-up keeps in the database, and the events that it reads there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_STORE_H
#define OUTBOX_CATCHUP_STORE_H

#include "postgres.h"

#include "publish/event.h"
#include "relay/catchup.h"

/* Events read at once: so many, or of so many bytes, whichever is less. */
#define BATCH_EVENTS 500
#define BATCH_BYTES (1024 * 1024)

/* The events of a round that are to be read. */
typedef struct CatchupRange
{
	char	   *published;		/* the home's watermark when the round began */
	int64		through_id;		/* the last event's id */
} CatchupRange;

/* Events in memory, so that no transaction is open while they are sent. */
typedef struct EventBatch
{
	MemoryContext context;		/* holds what they point to */
	int			size;
	Event		events[BATCH_EVENTS];
} EventBatch;

extern CatchupProgress *catchup_load(int32 home, MemoryContext context);
extern void catchup_save(const CatchupProgress *progress);
extern void catchup_save_at_exit(const CatchupProgress *progress);
extern void catchup_settle(const CatchupProgress *progress, bool forget_home);
extern void catchup_count(CatchupProgress *progress, CatchupRange *range,
						  MemoryContext context);
extern bool catchup_read(const CatchupProgress *progress,
						 const CatchupRange *range, int64 after,
						 EventBatch *batch);

#endif							/* OUTBOX_CATCHUP_STORE_H */
