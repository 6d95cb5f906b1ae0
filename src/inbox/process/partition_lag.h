/*-------------------------------------------------------------------------
 *
 * partition_lag.h
 *	  Where partitions end, and how many messages are still to be read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_LAG_H
#define OUTBOX_PARTITION_LAG_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern int64 partitions_end(InboxWorker *worker, Partition *partition);
extern int64 partitions_lag(InboxWorker *worker);

#endif							/* OUTBOX_PARTITION_LAG_H */
