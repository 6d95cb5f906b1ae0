/*-------------------------------------------------------------------------
 *
 * databases.h
 *	  Shared memory: which databases have a relay, and how each one fares.
 *
 * The registry has one entry for each database that holds the extension, or
 * may hold it.  Launcher, relays and ordinary backends meet here and nowhere
 * else.  Every function tolerates a server that was started without us in
 * shared_preload_libraries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DATABASES_H
#define OUTBOX_DATABASES_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "storage/latch.h"

#include "registry/relay_values.h"

extern bool shmem_available(void);
extern void shmem_set_state(RelayStatus *status, RelayState state);

/* Any backend. */
extern void shmem_wake_relay(Oid database);
extern bool shmem_request_relay(Oid database);
extern void shmem_configuration_changed(Oid database);
extern void shmem_subscriptions_changed(Oid database);
extern bool shmem_hold_database(Oid database);
extern void shmem_wait_for_leave(Oid database);
extern void shmem_release_database(Oid database);
extern void shmem_set_prepared_changes(void);
extern bool shmem_prepared_changes(void);
extern bool shmem_wait_published(Oid database, XLogRecPtr position,
								 uint64 round, long timeout_ms);
extern uint64 shmem_last_round(void);
extern bool shmem_read_status(Oid database, RelayStatus *status, pid_t *pid);

#endif							/* OUTBOX_DATABASES_H */
