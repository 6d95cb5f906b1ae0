/*-------------------------------------------------------------------------
 *
 * consumer_startup.h
 *	  What must be in place before a consumer can work: its subscription, the
 *	  role that made it, Kafka settings, the handler and rights on both.  And
 *	  whether that is still so.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_STARTUP_H
#define OUTBOX_CONSUMER_STARTUP_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void consumer_startup_wait(InboxWorker *worker);
extern void consumer_startup_check(InboxWorker *worker);

#endif							/* OUTBOX_CONSUMER_STARTUP_H */
