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

extern void partitions_refresh(InboxWorker *worker);
extern TimestampTz partitions_refresh_due(InboxWorker *worker);
extern void partitions_assign(InboxWorker *worker);
extern void partitions_give_back(InboxWorker *worker, Partition **partitions,
								 const ConsumerRecord **records, int n);
extern void partitions_commit_offsets(InboxWorker *worker);
extern void partitions_forget_shown(InboxWorker *worker);

#endif							/* OUTBOX_ASSIGNMENT_H */
