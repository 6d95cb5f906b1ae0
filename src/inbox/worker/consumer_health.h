/*-------------------------------------------------------------------------
 *
 * consumer_health.h
 *	  Whether messages can be fetched, and what stat_subscription shows of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_HEALTH_H
#define OUTBOX_CONSUMER_HEALTH_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void health_take_errors(InboxWorker *worker);
extern void health_check(InboxWorker *worker, bool more);

#endif							/* OUTBOX_CONSUMER_HEALTH_H */
