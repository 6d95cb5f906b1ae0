/*-------------------------------------------------------------------------
 *
 * worker_wait.h
 *	  How a worker waits, and how it ends on purpose.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_WAIT_H
#define OUTBOX_WORKER_WAIT_H

#include "postgres.h"

#include "core/compat.h"
#include "inbox/process/inbox_worker.h"

pg_noreturn extern void worker_restart(InboxWorker *worker);
extern void worker_check(InboxWorker *worker);
extern void worker_wait(InboxWorker *worker, long timeout_ms);

#endif							/* OUTBOX_WORKER_WAIT_H */
