/*-------------------------------------------------------------------------
 *
 * catchup_reader.h
 *	  Reads the events of a round of catch-up, a batch at a time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_READER_H
#define OUTBOX_CATCHUP_READER_H

#include "postgres.h"

#include "relay/state/catchup_progress.h"
#include "relay/state/event_batch.h"
#include "relay/table/catchup_table.h"

typedef struct CatchupReader CatchupReader;

extern CatchupReader *catchup_reader_open(const CatchupProgress *progress,
										  const CatchupRange *range,
										  MemoryContext context);
extern bool catchup_reader_next(CatchupReader *reader, EventBatch *batch);
extern void catchup_reader_close(CatchupReader *reader);

#endif							/* OUTBOX_CATCHUP_READER_H */
