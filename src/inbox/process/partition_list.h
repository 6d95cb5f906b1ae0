/*-------------------------------------------------------------------------
 *
 * partition_list.h
 *	  The partitions of a worker, by topic and number.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_LIST_H
#define OUTBOX_PARTITION_LIST_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern HTAB *partitions_table(const char *name, Size entrysize,
							  MemoryContext context);
extern void partitions_key(TopicPartition *key, const char *topic, int partition);
extern Partition *partitions_find(InboxWorker *worker, const char *topic,
								  int partition);
extern Partition *partitions_add(InboxWorker *worker, const char *topic,
								 int partition);

#endif							/* OUTBOX_PARTITION_LIST_H */
