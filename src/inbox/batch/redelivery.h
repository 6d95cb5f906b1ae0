/*-------------------------------------------------------------------------
 *
 * redelivery.h
 *	  Messages of inbox.message that are tried again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REDELIVERY_H
#define OUTBOX_REDELIVERY_H

#include "postgres.h"

#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/redelivery_round.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

extern void retry_run(InboxWorker *worker);
extern void retry_run_charged(InboxWorker *worker, InboxMessage *message);
extern bool retry_take_result(Round *round, InboxMessage *message,
							  bool succeeded);
extern void retry_set_next(Round *round, const Waiting *waiting,
						   const InboxMessage *message, Outcome *outcome);
extern void retry_apply(Round *round);

#endif							/* OUTBOX_REDELIVERY_H */
