/*-------------------------------------------------------------------------
 *
 * transaction.h
 *	  A consumer's transactions, and how much each takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_TRANSACTION_H
#define OUTBOX_INBOX_TRANSACTION_H

#include "postgres.h"

#include "inbox/handler.h"
#include "inbox/worker.h"

/* Time until a worker that waits for a lock looks for a deadlock, in ms. */
#define DEADLOCK_TIMEOUT_MS 10

extern void inbox_transaction_configure(void);
extern int	inbox_transaction_limit(const InboxWorker *worker);
extern bool inbox_transaction_begins_anew(const HandlerFailure *failure, int tries);
extern void inbox_transaction_begin(InboxWorker *worker, MemoryContext context);
extern void inbox_transaction_commit(InboxWorker *worker, int taken);
extern void inbox_transaction_abort(InboxWorker *worker, MemoryContext context,
									int taken, int *tries);

#endif							/* OUTBOX_INBOX_TRANSACTION_H */
