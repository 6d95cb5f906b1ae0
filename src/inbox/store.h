/*-------------------------------------------------------------------------
 *
 * store.h
 *	  What a batch writes beside the handler's effects.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_STORE_H
#define OUTBOX_INBOX_STORE_H

#include "postgres.h"

#include "inbox/handler.h"
#include "inbox/message.h"
#include "inbox/worker.h"

/* How far a batch moves a partition. */
typedef struct Move
{
	Partition  *partition;
	int64		next_offset;
	TimestampTz read_until;
	int			received;
	int			processed;
	int			duplicates;
} Move;

extern bool store_lock(InboxWorker *worker, const Move *moves, int n);
extern void store_wait_and_lock(InboxWorker *worker);
extern void store_move(InboxWorker *worker, const Move *moves, int n);
extern void store_messages(InboxMessage **messages, int n);
extern void store_retried(InboxWorker *worker, InboxMessage *message);
extern void store_stop(InboxWorker *worker, const char *event_id);
extern int64 store_pause_ms(const Subscription *subscription, int attempts);
extern void store_fail(InboxWorker *worker, InboxMessage *message,
					   const HandlerFailure *failure);

#endif							/* OUTBOX_INBOX_STORE_H */
