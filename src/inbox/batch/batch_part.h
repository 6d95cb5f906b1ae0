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

extern Batch batch_part_take(Batch *batch, int first);
extern void batch_part_committed(Batch *batch);

#endif							/* OUTBOX_BATCH_PART_H */
