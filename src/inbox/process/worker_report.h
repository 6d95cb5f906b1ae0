/*-------------------------------------------------------------------------
 *
 * worker_report.h
 *	  What a worker shows of itself, and what its log says when it waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_REPORT_H
#define OUTBOX_WORKER_REPORT_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"
#include "registry/consumer_entry.h"

#define SHOW_INTERVAL_MS 500

extern void worker_show_sometimes(InboxWorker *worker);
extern void worker_show(InboxWorker *worker);
extern void health_show(InboxWorker *worker, ConsumerState state,
						const char *message);
extern void health_problem(InboxWorker *worker, ConsumerState state,
						   const char *message);
extern void health_tell(InboxWorker *worker, const char *message);
extern void health_lookup_failed(InboxWorker *worker, const char *message,
								 bool unreached);
extern void health_sign(Partition *partition);
extern void health_note(InboxWorker *worker, const char *message);
extern void health_set_state(InboxWorker *worker, ConsumerState state);
extern void health_locked(InboxWorker *worker, const char *message);

#endif							/* OUTBOX_WORKER_REPORT_H */
