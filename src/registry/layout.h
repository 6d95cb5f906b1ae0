/*-------------------------------------------------------------------------
 *
 * layout.h
 *	  The layout of our shared memory, for the files of this folder.
 *
 * Locking: "lock" protects the registry, that is every field of an entry
 * that is not said to be otherwise.  A relay's status has a spinlock of its
 * own, because a monitoring query must not wait for anybody.  Backends read
 * "database" and "relay_latch" without a lock when they commit: a stale latch
 * belongs to some other process and costs it one spurious wake-up, since
 * latches of processes are never freed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LAYOUT_H
#define OUTBOX_LAYOUT_H

#include "postgres.h"

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "registry/relay_values.h"

typedef struct DatabaseEntry
{
	Oid			database;		/* InvalidOid when the entry is free */
	pid_t		pid;			/* its relay, 0 when there is none */
	Latch	   *relay_latch;	/* latch of that process */
	bool		absent;			/* relay found that there is no extension */
	int			holds;			/* utility commands that want nobody there, */
	int			holds_inside;	/* and those of them in this database */
	int			failures;		/* starts since the last progress */
	bool		failed;			/* the last relay ended with an error */
	int			errors;			/* relays that did, whatever they got done,
								 * since one had lasted */
	uint64		requests;		/* times that somebody asked for a relay */
	uint64		configuration;	/* grows when Kafka settings may have changed */
	uint64		subscriptions;	/* grows when inbox.subscription has changed */
	bool		crowded;		/* there was no room for all its consumers, */
	bool		scout_owed;		/* or for a scout */
	RelayHandover handover;		/* only relays touch it */
	ConditionVariable left;		/* signalled when pid becomes 0 */
	ConditionVariable moved;	/* signalled when published moves */
	slock_t		mutex;			/* protects what follows */
	XLogRecPtr	published;		/* everything committed before is on Kafka */
	uint64		polled;			/* so is what had committed when the round of
								 * that number began */
	RelayStatus status;
} DatabaseEntry;

typedef struct Registry
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL while there is no launcher */
	bool		overflowed;		/* a request found no room */
	bool		prepared_changes;	/* see shmem_set_prepared_changes */
	pg_atomic_uint64 rounds;	/* looks at tables that relays have begun, in
								 * all databases */
	pg_atomic_uint64 reloads;	/* times that the launcher has read the
								 * configuration files again */
	int			size;
	DatabaseEntry entries[FLEXIBLE_ARRAY_MEMBER];
} Registry;

/* NULL when the server was started without us. */
extern Registry *registry;

extern void shmem_init(void);
extern DatabaseEntry *registry_find(Oid database);
extern void registry_wake_launcher(void);

#endif							/* OUTBOX_LAYOUT_H */
