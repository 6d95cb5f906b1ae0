/*-------------------------------------------------------------------------
 *
 * registry.h
 *	  The layout of our shared memory: only for the files shmem*.c.
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
#ifndef OUTBOX_REGISTRY_H
#define OUTBOX_REGISTRY_H

#include "postgres.h"

#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "base/shmem.h"

/*
 * The last snapshot of a relay that polls.  When more transactions were
 * running than it has room for, "xmin" alone counts.
 */
#define POLLED_XIDS 64

typedef struct PolledSnapshot
{
	uint64		xmin;
	uint64		xmax;
	int			nxids;			/* running ones; -1 for too many */
	uint64		xids[POLLED_XIDS];
} PolledSnapshot;

typedef struct DatabaseEntry
{
	Oid			database;		/* InvalidOid when the entry is free */
	pid_t		pid;			/* its relay, 0 when there is none */
	Latch	   *relay_latch;	/* latch of that process */
	bool		absent;			/* relay found that there is no extension */
	int			holds;			/* utility commands that want nobody there */
	int			failures;		/* starts since the last progress */
	bool		failed;			/* the last relay ended with an error */
	int			errors;			/* relays that did, whatever they got done,
								 * since one had lasted */
	uint64		requests;		/* times that somebody asked for a relay */
	uint64		configuration;	/* grows when Kafka settings may have changed */
	uint64		subscriptions;	/* grows when inbox.subscription has changed */
	RelayHandover handover;		/* only relays touch it */
	ConditionVariable left;		/* signalled when pid becomes 0 */
	ConditionVariable moved;	/* signalled when published moves */
	slock_t		mutex;			/* protects what follows */
	XLogRecPtr	published;		/* everything committed before is on Kafka */
	PolledSnapshot polled;		/* so is everything that it shows */
	RelayStatus status;
} DatabaseEntry;

typedef struct Registry
{
	LWLock	   *lock;
	Latch	   *launcher_latch; /* NULL while there is no launcher */
	bool		overflowed;		/* a request found no room */
	bool		prepared_changes;	/* see shmem_set_prepared_changes */
	int			size;
	DatabaseEntry entries[FLEXIBLE_ARRAY_MEMBER];
} Registry;

/* NULL when the server was started without us. */
extern Registry *registry;

extern DatabaseEntry *registry_find(Oid database);
extern void registry_wake_launcher(void);

#endif							/* OUTBOX_REGISTRY_H */
