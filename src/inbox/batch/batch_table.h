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

extern void batch_table_messages(InboxMessage **messages, int n);
extern void batch_table_receive_again(const ReceivedItem **items, Datum *times,
									  int n, bool *renewed);
extern void batch_table_unreceive(const ReceivedItem **added, int nadded,
								  const ReceivedItem **renewed, int nrenewed);
extern void batch_table_stop(InboxWorker *worker, const InboxMessage *message,
							 volatile bool *disturbed);
extern void batch_table_reject(InboxMessage *message);
extern int64 batch_table_pause_ms(const Subscription *subscription, int attempts);
extern void batch_table_fail(InboxWorker *worker, InboxMessage *message,
							 const HandlerFailure *failure);

#endif							/* OUTBOX_BATCH_TABLE_H */
