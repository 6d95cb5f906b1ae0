/*-------------------------------------------------------------------------
 *
 * consumer_main.h
 *	  The consumer: a background worker that takes a subscription's messages
 *	  from Kafka into the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_MAIN_H
#define OUTBOX_CONSUMER_MAIN_H

#include "postgres.h"

#include "core/compat.h"
#include "inbox/process/inbox_worker.h"

extern PGDLLEXPORT void outbox_consumer_main(Datum arg);
extern void worker_check(InboxWorker *worker);
extern void worker_wait(InboxWorker *worker, long timeout_ms);
pg_noreturn extern void worker_restart(InboxWorker *worker);
extern void worker_show(InboxWorker *worker);
extern void worker_show_sometimes(InboxWorker *worker);

#endif							/* OUTBOX_CONSUMER_MAIN_H */
