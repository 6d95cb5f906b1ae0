/*-------------------------------------------------------------------------
 *
 * partition_doubt.h
 *	  Partitions that something is wrong with, or may be: they are in doubt until
 *	  something comes of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_DOUBT_H
#define OUTBOX_PARTITION_DOUBT_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void health_doubt(InboxWorker *worker, Partition *partition);
extern void health_doubt_topic(InboxWorker *worker, const char *topic);
extern void health_refused(void *arg, const char *topic, int partition);
extern void health_missing(InboxWorker *worker, const char *topic);

#endif							/* OUTBOX_PARTITION_DOUBT_H */
