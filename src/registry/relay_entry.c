/*-------------------------------------------------------------------------
 *
 * relay_entry.c
 *	  What a relay does with its entry of the registry.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/relay_entry.h"

#include "access/transam.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "core/last_error.h"
#include "registry/layout.h"
#include "registry/relay_values.h"

static DatabaseEntry *my_entry = NULL;	/* the one this relay is attached to */
static bool former_failed;		/* did a relay shortly before this one? */

/*
 * Runs after the process has left the database's proc array entry, so that
 * whoever waits for us finds the database free.
 */
static void
relay_detach(int code, Datum arg)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	my_entry->pid = 0;
	my_entry->relay_latch = NULL;
	my_entry->failed = last_error_failed(code);
	if (my_entry->failed)
		my_entry->errors++;
	SpinLockAcquire(&my_entry->mutex);
	if (my_entry->status.state != RELAY_STOPPED)
		my_entry->status.state_since = now;
	my_entry->status.state = RELAY_STOPPED;
	my_entry->status.in_flight = 0;
	my_entry->status.pinned_by = InvalidTransactionId;
	my_entry->status.catching_up = false;
	if (last_words() != NULL)
	{
		strlcpy(my_entry->status.error, last_words(), RELAY_ERROR_LEN);
		my_entry->status.error_at = now;
	}
	SpinLockRelease(&my_entry->mutex);
	registry_wake_launcher();
	LWLockRelease(registry->lock);
	ConditionVariableBroadcast(&my_entry->left);
}

/*
 * Makes this process the relay of a database, whose status will show the
 * error that ends it, if one does.  Must come before it connects there.
 * Returns false when it must not: the database is held, unknown, or
 * has a relay.
 */
bool
shmem_relay_attach(Oid database)
{
	DatabaseEntry *entry;
	bool		attached = false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database);
	if (entry != NULL && entry->holds == 0 && entry->pid == 0)
	{
		entry->pid = MyProcPid;
		entry->relay_latch = MyLatch;
		former_failed = entry->errors > 0;
		attached = true;
	}
	LWLockRelease(registry->lock);
	if (!attached)
		return false;

	my_entry = entry;
	on_shmem_exit(relay_detach, (Datum) 0);
	last_error_keep();
	return true;
}

/*
 * Is this process a relay?
 */
bool
shmem_is_relay(void)
{
	return my_entry != NULL;
}

/*
 * Did a relay end with an error since one had lasted?  Some of those between
 * may have ended in an orderly way.
 */
bool
shmem_relay_failed(void)
{
	return former_failed;
}

/*
 * How often somebody asked for this relay; to be read before the relay looks
 * for the extension.
 */
uint64
shmem_relay_requests(void)
{
	uint64		requests;

	LWLockAcquire(registry->lock, LW_SHARED);
	requests = my_entry->requests;
	LWLockRelease(registry->lock);
	return requests;
}

/*
 * The relay found no extension.  Returns false when somebody asked again
 * since "requests" was read, so that it must look once more.
 */
bool
shmem_relay_absent(uint64 requests)
{
	bool		absent;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	absent = my_entry->requests == requests;
	if (absent)
		my_entry->absent = true;
	LWLockRelease(registry->lock);
	return absent;
}

/*
 * Shows the relay's status to everybody.
 */
void
shmem_relay_publish(const RelayStatus *status)
{
	SpinLockAcquire(&my_entry->mutex);
	my_entry->status = *status;
	SpinLockRelease(&my_entry->mutex);
}

/*
 * Reads what the relay before this one published, so that counters go on.
 */
void
shmem_relay_load(RelayStatus *status)
{
	SpinLockAcquire(&my_entry->mutex);
	*status = my_entry->status;
	SpinLockRelease(&my_entry->mutex);
}

/*
 * Does a utility command want us to leave?  Read without a lock: our latch is
 * set after it changes.
 */
bool
shmem_relay_must_leave(void)
{
	return my_entry->holds > 0;
}

/*
 * Does a session of this database wait for us to leave?  We must not wait for
 * locks then, as it may have them.
 */
bool
shmem_relay_must_not_wait(void)
{
	return my_entry->holds_inside > 0;
}

/*
 * A number that grows whenever the Kafka settings may have changed.  Read
 * without a lock, as above.
 */
uint64
shmem_relay_configuration(void)
{
	return my_entry->configuration;
}

/*
 * The relay works: the next start needs no back-off.
 */
void
shmem_relay_progress(void)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	my_entry->failures = 0;
	LWLockRelease(registry->lock);
}

/*
 * Everything committed before position is on Kafka: tells those who wait.
 */
void
shmem_relay_published(XLogRecPtr position)
{
	SpinLockAcquire(&my_entry->mutex);
	my_entry->published = position;
	SpinLockRelease(&my_entry->mutex);
	ConditionVariableBroadcast(&my_entry->moved);
}

/*
 * The relay is about to take the snapshot of a round.  Returns its number.
 */
uint64
shmem_relay_begin_round(void)
{
	return pg_atomic_add_fetch_u64(&registry->rounds, 1);
}

/*
 * Everything that the snapshot of a round shows is on Kafka: tells those who
 * wait.
 */
void
shmem_relay_polled(uint64 round)
{
	SpinLockAcquire(&my_entry->mutex);
	my_entry->polled = round;
	SpinLockRelease(&my_entry->mutex);
	ConditionVariableBroadcast(&my_entry->moved);
}

/*
 * What the relay before this one left.
 */
void
shmem_relay_get_handover(RelayHandover *handover)
{
	*handover = my_entry->handover;
}

/*
 * Leaves something to the next relay.
 */
void
shmem_relay_set_handover(const RelayHandover *handover)
{
	my_entry->handover = *handover;
}
