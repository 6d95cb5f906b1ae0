/*-------------------------------------------------------------------------
 *
 * batch_table.h
 *	  What a batch writes beside the handler's effects.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_TABLE_H
#define OUTBOX_BATCH_TABLE_H

#include "postgres.h"

#include "executor/spi.h"

#include "inbox/batch/handler_failure.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/subscription.h"
#include "inbox/table/dedup.h"

extern void store_messages(InboxMessage **messages, int n);
extern void store_receive_again(const ReceivedItem **items, Datum *times,
								int n, bool *renewed);
extern void store_unreceive(const ReceivedItem **added, int nadded,
							const ReceivedItem **renewed, int nrenewed);
extern void store_stop(InboxWorker *worker, const InboxMessage *message,
					   volatile bool *disturbed);
extern void store_reject(InboxMessage *message);
extern int64 store_pause_ms(const Subscription *subscription, int attempts);
extern void store_fail(InboxWorker *worker, InboxMessage *message,
					   const HandlerFailure *failure);

#endif							/* OUTBOX_BATCH_TABLE_H */
