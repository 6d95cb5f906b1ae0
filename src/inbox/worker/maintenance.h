/*-------------------------------------------------------------------------
 *
 * maintenance.h
 *	  What is done in a database now and then, whatever comes from Kafka.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MAINTENANCE_H
#define OUTBOX_MAINTENANCE_H

#include "postgres.h"

#include "core/compat.h"
#include "inbox/process/inbox_worker.h"
#include "registry/consumer_entry.h"

extern void maintenance_run(InboxWorker *worker);
pg_noreturn extern void maintenance_scout(ConsumerEntry *entry);

#endif							/* OUTBOX_MAINTENANCE_H */
