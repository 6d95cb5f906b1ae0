/*-------------------------------------------------------------------------
 *
 * redelivery_queue.h
 *	  What waits behind a message that is to be tried again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REDELIVERY_QUEUE_H
#define OUTBOX_REDELIVERY_QUEUE_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

/* With so many keys waiting, nothing new is fetched. */
#define WAITING_LIMIT 100000

extern void redelivery_queue_create(InboxWorker *worker);
extern Waiting *redelivery_queue_find(InboxWorker *worker, const InboxMessage *message);
extern TimestampTz redelivery_queue_until(const InboxWorker *worker,
										  const InboxMessage *message);
extern void redelivery_queue_add(InboxWorker *worker, Partition *partition,
								 const InboxMessage *message, bool tentative);
extern bool redelivery_queue_has_old(InboxWorker *worker);
extern void redelivery_queue_join(InboxWorker *worker, const InboxMessage *message);
extern void redelivery_queue_settle(InboxWorker *worker, bool committed);
extern TimestampTz redelivery_queue_due(InboxWorker *worker);
extern int	redelivery_queue_collect_due(InboxWorker *worker, Waiting **keys, int max);
extern bool redelivery_queue_is_full(InboxWorker *worker);

#endif							/* OUTBOX_REDELIVERY_QUEUE_H */
