/*-------------------------------------------------------------------------
 *
 * handler_backoff.h
 *	  A pause while the handler takes long and comes to nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HANDLER_BACKOFF_H
#define OUTBOX_HANDLER_BACKOFF_H

#include "postgres.h"

#include "inbox/batch/handler_failure.h"
#include "inbox/process/inbox_worker.h"

extern void handler_backoff_begin(InboxWorker *worker);
extern void handler_backoff_succeeded(InboxWorker *worker);
extern void handler_backoff_failed(InboxWorker *worker, const HandlerFailure *failure);
extern void handler_backoff_end(InboxWorker *worker, bool slow);
extern void handler_backoff_rest(InboxWorker *worker);
extern bool handler_backoff_is_backing_off(const InboxWorker *worker);
extern bool handler_backoff_is_pausing(const InboxWorker *worker);
extern TimestampTz handler_backoff_due(const InboxWorker *worker);

#endif							/* OUTBOX_HANDLER_BACKOFF_H */
