/*-------------------------------------------------------------------------
 *
 * partition_end.h
 *	  Passes what lies behind the last message of a partition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_END_H
#define OUTBOX_PARTITION_END_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void partition_end_note(void *arg, const char *topic, int partition, int64 offset);
extern void partition_end_pass(InboxWorker *worker);
extern void partition_end_store(InboxWorker *worker);

#endif							/* OUTBOX_PARTITION_END_H */
