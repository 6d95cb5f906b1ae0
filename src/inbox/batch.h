/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Transactions that run the handler.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_BATCH_H
#define OUTBOX_INBOX_BATCH_H

#include "postgres.h"

#include "inbox/handler.h"
#include "inbox/store.h"
#include "inbox/waiting.h"

extern void batch_begin(InboxWorker *worker, MemoryContext context);
extern void batch_commit(InboxWorker *worker);
extern void batch_abort(InboxWorker *worker, MemoryContext context, int *tries);

#endif							/* OUTBOX_INBOX_BATCH_H */
