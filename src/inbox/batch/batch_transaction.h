/*-------------------------------------------------------------------------
 *
 * batch_transaction.h
 *	  A consumer's transactions, and how much each takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_TRANSACTION_H
#define OUTBOX_BATCH_TRANSACTION_H

#include "postgres.h"

#include "inbox/batch/handler_failure.h"
#include "inbox/process/inbox_worker.h"

/* Time until a worker that waits for a lock looks for a deadlock, in ms. */
#define DEADLOCK_TIMEOUT_MS 10

/* What became of a transaction that an error has ended. */
typedef enum AbortReason
{
	ABORTED_ANEW,				/* it shall begin anew */
	ABORTED_AT_COMMIT			/* it could not be committed */
} AbortReason;

extern void inbox_transaction_configure(void);
extern bool inbox_transaction_begins_anew(const HandlerFailure *failure, int tries);
extern void inbox_transaction_begin(InboxWorker *worker, MemoryContext context);
extern void inbox_transaction_commit(InboxWorker *worker, int taken);
extern AbortReason inbox_transaction_abort(InboxWorker *worker, MemoryContext context,
										   int taken, int *tries,
										   HandlerFailure *failure);
extern bool inbox_transaction_take_less(InboxWorker *worker, MemoryContext context,
										int taken, int *tries,
										HandlerFailure *failure);

#endif							/* OUTBOX_BATCH_TRANSACTION_H */
