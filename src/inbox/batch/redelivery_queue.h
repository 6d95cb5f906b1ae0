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

extern void waiting_create(InboxWorker *worker);
extern Waiting *waiting_find(InboxWorker *worker, const InboxMessage *message);
extern TimestampTz waiting_until(const InboxWorker *worker,
								 const InboxMessage *message);
extern void waiting_add(InboxWorker *worker, Partition *partition,
						const InboxMessage *message, bool tentative);
extern bool waiting_has_old(InboxWorker *worker);
extern void waiting_join(InboxWorker *worker, const InboxMessage *message);
extern void waiting_settle(InboxWorker *worker, bool committed);
extern TimestampTz waiting_due(InboxWorker *worker);
extern int	waiting_collect_due(InboxWorker *worker, Waiting **keys, int max);
extern bool waiting_is_full(InboxWorker *worker);

#endif							/* OUTBOX_REDELIVERY_QUEUE_H */
