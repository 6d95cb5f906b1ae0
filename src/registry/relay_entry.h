/*-------------------------------------------------------------------------
 *
 * relay_entry.h
 *	  What a relay does with its entry of the registry.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_ENTRY_H
#define OUTBOX_RELAY_ENTRY_H

#include "postgres.h"

#include "registry/relay_values.h"

extern bool shmem_relay_attach(Oid database);
extern bool shmem_is_relay(void);
extern bool shmem_relay_failed(void);
extern uint64 shmem_relay_requests(void);
extern bool shmem_relay_absent(uint64 requests);
extern void shmem_relay_publish(const RelayStatus *status);
extern void shmem_relay_load(RelayStatus *status);
extern bool shmem_relay_must_leave(void);
extern bool shmem_relay_must_not_wait(void);
extern uint64 shmem_relay_configuration(void);
extern void shmem_relay_progress(void);
extern void shmem_relay_published(XLogRecPtr position);
extern uint64 shmem_relay_begin_round(void);
extern void shmem_relay_polled(uint64 round);
extern void shmem_relay_get_handover(RelayHandover *handover);
extern void shmem_relay_set_handover(const RelayHandover *handover);

#endif							/* OUTBOX_RELAY_ENTRY_H */
