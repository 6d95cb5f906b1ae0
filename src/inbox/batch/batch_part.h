/*-------------------------------------------------------------------------
 *
 * batch_part.h
 *	  How much of a batch the next transaction takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_PART_H
#define OUTBOX_BATCH_PART_H

#include "postgres.h"

#include "inbox/batch/message_batch.h"

extern Batch part_take(Batch *batch, int first);
extern void part_committed(Batch *batch);

#endif							/* OUTBOX_BATCH_PART_H */
