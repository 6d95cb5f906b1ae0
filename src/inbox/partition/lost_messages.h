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

extern void lost_messages_note(void *arg, const char *topic, int partition);
extern void lost_messages_take(InboxWorker *worker);
extern TimestampTz lost_messages_due(const InboxWorker *worker);

#endif							/* OUTBOX_LOST_MESSAGES_H */
