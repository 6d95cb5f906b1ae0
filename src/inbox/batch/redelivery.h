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

#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

extern void redelivery_run(InboxWorker *worker);
extern void redelivery_run_charged(InboxWorker *worker, InboxMessage *message);

#endif							/* OUTBOX_REDELIVERY_H */
