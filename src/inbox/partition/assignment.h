/*-------------------------------------------------------------------------
 *
 * assignment.h
 *	  Which partitions a worker reads, and from where.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ASSIGNMENT_H
#define OUTBOX_ASSIGNMENT_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"

extern HTAB *partitions_table(const char *name, Size entrysize,
							  MemoryContext context);
extern void partitions_key(TopicPartition *key, const char *topic, int partition);
extern void partitions_refresh(InboxWorker *worker);
extern TimestampTz partitions_refresh_due(InboxWorker *worker);
extern Partition *partitions_add(InboxWorker *worker, const char *topic,
								 int partition);
extern Partition *partitions_find(InboxWorker *worker, const char *topic,
								  int partition);
extern void partitions_assign(InboxWorker *worker);
extern void partitions_give_back(InboxWorker *worker, Partition **partitions,
								 const ConsumerRecord **records, int n);
extern void partitions_commit_offsets(InboxWorker *worker);
extern void partitions_forget_shown(InboxWorker *worker);
extern int64 partitions_end(InboxWorker *worker, Partition *partition);
extern int64 partitions_lag(InboxWorker *worker);

#endif							/* OUTBOX_ASSIGNMENT_H */
