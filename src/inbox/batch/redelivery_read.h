/*-------------------------------------------------------------------------
 *
 * redelivery_read.h
 *	  Reads the messages that wait in inbox.message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REDELIVERY_READ_H
#define OUTBOX_REDELIVERY_READ_H

#include "postgres.h"

#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

extern void redelivery_load(InboxWorker *worker);
extern InboxMessage *retry_read(Round *round, const Waiting *waiting, int limit,
								int *n);

#endif							/* OUTBOX_REDELIVERY_READ_H */
