/*-------------------------------------------------------------------------
 *
 * databases.c
 *	  The registry of databases in shared memory.
 *
 * This is what backends do with it; relays are in relay_entry.c, the launcher
 * is in launcher_view.c, the layout and its locking in layout.h.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/databases.h"

#include <signal.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "registry/consumers.h"
#include "registry/layout.h"
#include "registry/relay_values.h"
#include "registry/subscription_list.h"

/* How long a relay may take to leave before it is told by a signal. */
#define LEAVE_GRACE_MS 1000

/*
 * Was the server started with us in shared_preload_libraries?
 */
bool
shmem_available(void)
{
	return registry != NULL;
}

/* Like registry_find, but makes the entry.  NULL when there is no room. */
static DatabaseEntry *
find_or_make_entry(Oid database)
{
	DatabaseEntry *entry = registry_find(database);
	TimestampTz now;

	if (entry != NULL)
		return entry;
	entry = registry_find(InvalidOid);
	if (entry == NULL)
		return NULL;
	now = GetCurrentTimestamp();

	entry->pid = 0;
	entry->relay_latch = NULL;
	entry->absent = false;
	entry->crowded = entry->scout_owed = false;
	entry->holds = entry->holds_inside = 0;
	entry->failures = 0;
	entry->failed = false;
	entry->errors = 0;
	memset(&entry->handover, 0, sizeof(entry->handover));
	SpinLockAcquire(&entry->mutex);
	memset(&entry->status, 0, sizeof(entry->status));
	entry->status.round_trip_us = -1;
	entry->status.state_since = now;
	entry->published = InvalidXLogRecPtr;
	entry->polled = 0;
	SpinLockRelease(&entry->mutex);
	entry->database = database;
	return entry;
}

/*
 * Sets the latch of a database's relay, if it has one.  Takes no lock.
 */
void
shmem_wake_relay(Oid database)
{
	DatabaseEntry *entry = registry_find(database);
	Latch	   *latch = entry ? entry->relay_latch : NULL;

	if (latch)
		SetLatch(latch);
}

/*
 * The number of the last round that a relay has begun, of whichever database.
 * Those with higher numbers see whatever has committed, and is no longer
 * running for others, when this is called.
 */
uint64
shmem_last_round(void)
{
	return registry ? pg_atomic_read_u64(&registry->rounds) : 0;
}

/*
 * Waits until the relay of a database has published a transaction, whose
 * commit record ends at a position in the WAL, and which had committed when
 * the last round was the given one.  Returns false when that takes longer than
 * timeout_ms.
 */
bool
shmem_wait_published(Oid database, XLogRecPtr position, uint64 round,
					 long timeout_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(),
													timeout_ms);
	DatabaseEntry *entry = registry_find(database);
	bool		published = false;

	while (entry != NULL && !published)
	{
		long		left;

		ConditionVariablePrepareToSleep(&entry->moved);
		SpinLockAcquire(&entry->mutex);
		published = entry->published >= position || entry->polled > round;
		SpinLockRelease(&entry->mutex);
		left = TimestampDifferenceMilliseconds(monotonic_now(), until);
		if (published || left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&entry->moved, left,
										   PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
	return published;
}

/*
 * Tells the launcher that a database may hold the extension.  Returns false
 * when the registry is full; then the launcher looks for it when there is
 * room again.
 */
bool
shmem_request_relay(Oid database)
{
	DatabaseEntry *entry;

	if (registry == NULL)
		return true;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = find_or_make_entry(database);
	if (entry != NULL)
	{
		entry->absent = false;
		entry->failures = 0;
		entry->failed = false;
		entry->requests++;
		if (entry->relay_latch)
			SetLatch(entry->relay_latch);
	}
	else
		registry->overflowed = true;
	registry_wake_launcher();
	LWLockRelease(registry->lock);
	return entry != NULL;
}

/*
 * Has the processes of a database look at what has changed: its consumers at
 * inbox.subscription, or they and the relay at their Kafka settings.
 */
static void
announce(Oid database, bool settings)
{
	DatabaseEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database);
	if (entry != NULL)
	{
		if (settings)
			entry->configuration++;
		else
			entry->subscriptions++;
		if (settings && entry->relay_latch)
			SetLatch(entry->relay_latch);
		consumers_wake(database);
	}
	LWLockRelease(registry->lock);
}

/*
 * Tells relay and consumers of a database to look at their Kafka settings
 * again.
 */
void
shmem_configuration_changed(Oid database)
{
	if (registry != NULL)
		announce(database, true);
}

/*
 * Tells launcher and consumers of a database that inbox.subscription changed.
 */
void
shmem_subscriptions_changed(Oid database)
{
	if (registry == NULL)
		return;
	announce(database, false);
	consumers_request_scout(database);
}

/*
 * A transaction was prepared that changed the extension or the Kafka settings
 * of some database.  Nobody knows which one when it commits, so from now on
 * each COMMIT PREPARED is looked at.
 */
void
shmem_set_prepared_changes(void)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	registry->prepared_changes = true;
	LWLockRelease(registry->lock);
}

/* Has there ever been such a transaction?  Takes no lock. */
bool
shmem_prepared_changes(void)
{
	return registry->prepared_changes;
}

/*
 * Asks the relay to leave a database and keeps it out until the database is
 * released.  Returns false when the database has no entry, and then there is
 * nothing to wait for and nothing to release.
 */
bool
shmem_hold_database(Oid database)
{
	DatabaseEntry *entry;

	if (registry == NULL)
		return false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database);
	if (entry != NULL)
	{
		entry->holds++;
		if (database == MyDatabaseId)
			entry->holds_inside++;
		consumers_dismiss(database);
		if (entry->relay_latch)
			SetLatch(entry->relay_latch);
	}
	LWLockRelease(registry->lock);
	return entry != NULL;
}

/*
 * Waits until the relay of a database, which the caller holds, has left.
 */
void
shmem_wait_for_leave(Oid database)
{
	DatabaseEntry *entry = registry_find(database);
	TimestampTz since = monotonic_now();

	ConditionVariablePrepareToSleep(&entry->left);
	for (;;)
	{
		pid_t		pid;
		bool		consumers;

		LWLockAcquire(registry->lock, LW_SHARED);
		pid = entry->pid;
		consumers = consumers_present(database);
		LWLockRelease(registry->lock);
		if (pid == 0 && !consumers)
			break;
		if (TimestampDifferenceExceeds(since, monotonic_now(),
									   LEAVE_GRACE_MS))
		{
			if (pid != 0)
				kill(pid, SIGTERM);
			consumers_terminate(database);
		}
		ConditionVariableTimedSleep(&entry->left, LEAVE_GRACE_MS,
									PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

/*
 * Ends what shmem_hold_database began; the relay comes back.
 */
void
shmem_release_database(Oid database)
{
	DatabaseEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database);
	if (entry != NULL && entry->holds > 0)
	{
		entry->holds--;
		if (database == MyDatabaseId)
			entry->holds_inside--;
		entry->failures = 0;
		entry->failed = false;
		registry_wake_launcher();
	}
	LWLockRelease(registry->lock);
}

/*
 * Changes the state in a status, and when it began.
 */
void
shmem_set_state(RelayStatus *status, RelayState state)
{
	if (status->state != state || status->state_since == 0)
		status->state_since = GetCurrentTimestamp();
	status->state = state;
}

/*
 * Copies the status of a database's relay.  Returns false when the database
 * has no entry.  Waits for nobody.
 */
bool
shmem_read_status(Oid database, RelayStatus *status, pid_t *pid)
{
	DatabaseEntry *entry = registry_find(database);

	if (entry == NULL)
		return false;
	SpinLockAcquire(&entry->mutex);
	*status = entry->status;
	SpinLockRelease(&entry->mutex);
	*pid = entry->pid;
	return true;
}
