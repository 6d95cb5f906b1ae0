/*-------------------------------------------------------------------------
 *
 * partition_marks.h
 *	  Whether a partition is still the one that was read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_MARKS_H
#define OUTBOX_PARTITION_MARKS_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"

extern void marks_begin(InboxWorker *worker, Partition *partition);
extern void marks_begin_again(InboxWorker *worker, Partition *partition);
extern void marks_doubt(InboxWorker *worker, Partition *partition);
extern void marks_doubt_since(InboxWorker *worker, Partition *partition);
extern int64 marks_start(Partition *partition);
extern void marks_started(Partition *partition);
extern bool marks_removed(Partition *partition, int64 low);
extern void marks_check(InboxWorker *worker);
extern void marks_update(Mark *marks, const Partition *partition,
						 const ConsumerRecord *before,
						 const ConsumerRecord *last);

#endif							/* OUTBOX_PARTITION_MARKS_H */
