/*-------------------------------------------------------------------------
 *
 * consumers.h
 *	  Shared memory: the consumers of all databases.
 *
 * There is an entry for each worker of each subscription, and one for a
 * database whose subscriptions are to be listed; the latter are never in want
 * of room, since they alone can make some.  Who fills them: a "scout" reads
 * inbox.subscription (the relay when it starts, else a short-lived process),
 * and the launcher starts what is wanted and not there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMERS_H
#define OUTBOX_CONSUMERS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/latch.h"
#include "storage/spin.h"

#include "registry/consumer_entry.h"

extern void consumers_set_state(ConsumerStatus *status, ConsumerState state);

extern void consumers_shmem_init(void);
extern int	consumers_size(void);
extern int	consumers_workers(void);
extern ConsumerEntry *consumers_entry(int index);

/* Any backend. */
extern void consumers_dismiss(Oid database);
extern bool consumers_present(Oid database);
extern void consumers_wake(Oid database);
extern void consumers_wake_entry(ConsumerEntry *entry);
extern void consumers_terminate(Oid database);

/* Scouts. */

/* The launcher. */
extern void consumers_end(ConsumerEntry *entry, pid_t pid);
extern void consumers_make_way(int n);
extern void consumers_has_made_way(ConsumerEntry *entry);
extern void consumers_report_failure(ConsumerEntry *entry, const char *message);

/* A consumer, about the entry that it is attached to. */
extern ConsumerEntry *consumers_attach(int index);
extern void consumers_progress(ConsumerEntry *entry);
extern void consumers_show(ConsumerEntry *entry, const ConsumerStatus *status);
extern void consumers_load(ConsumerEntry *entry, ConsumerStatus *status);
extern uint64 consumers_configuration(void);
extern uint64 consumers_subscriptions(void);
extern bool consumers_must_leave(const ConsumerEntry *entry);

#endif							/* OUTBOX_CONSUMERS_H */
