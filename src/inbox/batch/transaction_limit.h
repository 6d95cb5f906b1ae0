/*-------------------------------------------------------------------------
 *
 * transaction_limit.h
 *	  How many messages a transaction takes, and how long it may last.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TRANSACTION_LIMIT_H
#define OUTBOX_TRANSACTION_LIMIT_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern int	inbox_transaction_limit(const InboxWorker *worker);
extern bool inbox_transaction_is_over(const InboxWorker *worker);
extern void inbox_transaction_lower_limit(InboxWorker *worker, int taken);
extern void inbox_transaction_adjust_limit(InboxWorker *worker, int taken);

#endif							/* OUTBOX_TRANSACTION_LIMIT_H */
