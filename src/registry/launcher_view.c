/*-------------------------------------------------------------------------
 *
 * launcher_view.c
 *	  What the launcher does with the registry of databases.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/launcher_view.h"

#include "access/twophase.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "registry/consumers.h"
#include "registry/layout.h"
#include "registry/relay_values.h"

static void
launcher_detach(int code, Datum arg)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	registry->launcher_latch = NULL;
	LWLockRelease(registry->lock);
}

/*
 * Are there prepared transactions, from before the server was started?  Nobody
 * knows any more what they have changed.
 */
static bool
prepared_transactions_exist(void)
{
	for (int i = 0; i < max_prepared_xacts; i++)
		if (TransactionIdIsValid(PreparedXactProcs[i].xid))
			return true;
	return false;
}

/*
 * Makes this process the launcher, woken by requests until it exits.
 */
void
shmem_launcher_attach(void)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	registry->launcher_latch = MyLatch;
	registry->prepared_changes |= prepared_transactions_exist();
	LWLockRelease(registry->lock);
	on_shmem_exit(launcher_detach, (Datum) 0);
}

/*
 * The launcher has read the configuration files again: has all others look
 * whether they have, too.
 */
void
shmem_count_reload(void)
{
	pg_atomic_fetch_add_u64(&registry->reloads, 1);
	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < registry->size; i++)
	{
		DatabaseEntry *entry = &registry->entries[i];

		if (entry->relay_latch)
			SetLatch(entry->relay_latch);
		if (OidIsValid(entry->database))
			consumers_wake(entry->database);
	}
	LWLockRelease(registry->lock);
}

/*
 * Times that the launcher has read the configuration files again.  Takes no
 * lock.
 */
uint64
shmem_reloads(void)
{
	return pg_atomic_read_u64(&registry->reloads);
}

/*
 * Is there no room for another database?  Takes no lock.
 */
bool
shmem_full(void)
{
	return registry != NULL && registry_find(InvalidOid) == NULL;
}

/*
 * Has a request found no room since this was last asked?
 */
bool
shmem_overflowed(void)
{
	bool		overflowed;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	overflowed = registry->overflowed;
	registry->overflowed = false;
	LWLockRelease(registry->lock);
	return overflowed;
}

/*
 * Removes the entry of a database that has no relay: it is gone, or does not
 * hold the extension.  Leaves it alone when somebody asked for a relay since
 * "info" was read.
 */
void
shmem_forget_database(const DatabaseInfo *info)
{
	DatabaseEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(info->database);
	if (entry != NULL && entry->pid == 0 && entry->holds == 0 &&
		entry->requests == info->requests)
	{
		entry->database = InvalidOid;
		consumers_dismiss(info->database);
	}
	LWLockRelease(registry->lock);
}

/*
 * Copies the registry into list, of the given size; returns the number.
 */
int
shmem_list_databases(DatabaseInfo *list, int size)
{
	int			n = 0;

	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < registry->size && n < size; i++)
	{
		DatabaseEntry *entry = &registry->entries[i];

		if (!OidIsValid(entry->database))
			continue;
		list[n].database = entry->database;
		list[n].pid = entry->pid;
		list[n].absent = entry->absent;
		list[n].held = entry->holds > 0;
		SpinLockAcquire(&entry->mutex);
		list[n].looking = entry->pid != 0 &&
			entry->status.state == RELAY_STOPPED;
		SpinLockRelease(&entry->mutex);
		list[n].failures = entry->failures;
		list[n].failed = entry->failed;
		list[n].errors = entry->errors;
		list[n].requests = entry->requests;
		n++;
	}
	LWLockRelease(registry->lock);
	return n;
}

/*
 * Counts a start of a relay, from zero if "afresh"; the relay resets the
 * count by progress, but not that of errors.
 */
void
shmem_count_start(Oid database, bool afresh)
{
	DatabaseEntry *entry;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database);
	if (entry != NULL)
	{
		entry->failures = afresh ? 1 : entry->failures + 1;
		if (afresh)
			entry->errors = entry->failed ? 1 : 0;
	}
	LWLockRelease(registry->lock);
}

/*
 * Shows in stat_relay why a database's relay could not be started.
 */
void
shmem_report_failure(Oid database, const char *message)
{
	DatabaseEntry *entry;

	LWLockAcquire(registry->lock, LW_SHARED);
	entry = registry_find(database);
	if (entry != NULL)
	{
		TimestampTz now = GetCurrentTimestamp();

		SpinLockAcquire(&entry->mutex);
		if (entry->status.state != RELAY_STOPPED)
			entry->status.state_since = now;
		entry->status.state = RELAY_STOPPED;
		entry->status.error_at = now;
		strlcpy(entry->status.error, message, RELAY_ERROR_LEN);
		SpinLockRelease(&entry->mutex);
	}
	LWLockRelease(registry->lock);
}
