/*-------------------------------------------------------------------------
 *
 * lost_messages.h
 *	  Messages that Kafka has removed before they were read, and partitions that
 *	  are not what was read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LOST_MESSAGES_H
#define OUTBOX_LOST_MESSAGES_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void losses_note(void *arg, const char *topic, int partition);
extern void losses_take(InboxWorker *worker);
extern TimestampTz losses_due(const InboxWorker *worker);

#endif							/* OUTBOX_LOST_MESSAGES_H */
