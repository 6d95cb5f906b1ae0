/*-------------------------------------------------------------------------
 *
 * consumers.c
 *	  The consumers of all databases in shared memory.
 *
 * The registry of databases (databases.c) says who may be in a database at all:
 * a consumer attaches only where the registry has the database and nobody
 * wants it empty.  A command that does want it empty dismisses the consumers;
 * the relay lists the subscriptions again when it comes back.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/consumers.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/last_error.h"
#include "registry/consumer_entry.h"
#include "registry/layout.h"

typedef struct Consumers
{
	int			size;
	int			workers;		/* so many of the entries, the first, are for
								 * workers; the others are for scouts */
	ConsumerEntry entries[FLEXIBLE_ARRAY_MEMBER];
} Consumers;

static Consumers *consumers = NULL;

static ConsumerEntry *attached_entry = NULL;	/* the one of this process */
static DatabaseEntry *attached_database = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/*
 * Changes the state in a status, and when it began.
 */
void
consumers_set_state(ConsumerStatus *status, ConsumerState state)
{
	if (status->state != state || status->state_since == 0)
		status->state_since = GetCurrentTimestamp();
	status->state = state;
}

static Size
consumers_bytes(void)
{
	return add_size(offsetof(Consumers, entries),
					mul_size(add_size(outbox_max_consumers, outbox_max_databases),
							 sizeof(ConsumerEntry)));
}

static void
consumers_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(consumers_bytes());
}

static void
consumers_shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	consumers = ShmemInitStruct("outbox consumers", consumers_bytes(), &found);
	if (!found)
	{
		memset(consumers, 0, consumers_bytes());
		consumers->workers = outbox_max_consumers;
		consumers->size = outbox_max_consumers + outbox_max_databases;
		for (int i = 0; i < consumers->size; i++)
			SpinLockInit(&consumers->entries[i].mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Asks for shared memory.  Call from _PG_init while shared_preload_libraries
 * is being processed.
 */
void
consumers_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = consumers_shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = consumers_shmem_startup;
}

/*
 * Number of entries, free ones too; 0 when the server was started without us.
 */
int
consumers_size(void)
{
	return consumers ? consumers->size : 0;
}

/*
 * How many of the entries, the first, are for workers.
 */
int
consumers_workers(void)
{
	return consumers ? consumers->workers : 0;
}

ConsumerEntry *
consumers_entry(int index)
{
	return &consumers->entries[index];
}

/*
 * Makes a consumer look at its entry.  Needs the registry's lock.
 */
void
consumers_wake_entry(ConsumerEntry *entry)
{
	if (entry->latch)
		SetLatch(entry->latch);
}

/*
 * Makes the consumers of a database leave, because somebody wants it empty.
 * Needs the registry's lock.
 */
void
consumers_dismiss(Oid database)
{
	for (int i = 0; i < consumers_size(); i++)
	{
		ConsumerEntry *entry = &consumers->entries[i];

		if (entry->database != database)
			continue;
		entry->wanted = false;
		consumers_wake_entry(entry);
	}
}

/*
 * Makes the consumers of a database look at their settings, or at their
 * subscriptions.  Needs the registry's lock.
 */
void
consumers_wake(Oid database)
{
	for (int i = 0; i < consumers_size(); i++)
		if (consumers->entries[i].database == database)
			consumers_wake_entry(&consumers->entries[i]);
}

/*
 * Is a consumer attached to the database?  Needs the registry's lock.
 */
bool
consumers_present(Oid database)
{
	for (int i = 0; i < consumers_size(); i++)
		if (consumers->entries[i].database == database &&
			consumers->entries[i].pid != 0)
			return true;
	return false;
}

/*
 * Ends the consumers of a database, which have not left by themselves.
 */
void
consumers_terminate(Oid database)
{
	LWLockAcquire(registry->lock, LW_SHARED);
	for (int i = 0; i < consumers_size(); i++)
		if (consumers->entries[i].database == database &&
			consumers->entries[i].pid != 0)
			kill(consumers->entries[i].pid, SIGTERM);
	LWLockRelease(registry->lock);
}

/*
 * The worker that is to give its slot to a relay: one that its subscription has
 * beside others, if there is one.  NULL if there is none.  Needs the lock.
 */
static ConsumerEntry *
last_worker(void)
{
	ConsumerEntry *last = NULL;

	for (int i = 0; i < consumers_workers(); i++)
	{
		ConsumerEntry *entry = &consumers->entries[i];

		if (entry->pid != 0 && entry->wanted && !entry->yields &&
			(last == NULL || entry->worker >= last->worker))
			last = entry;
	}
	return last;
}

/*
 * Has so many more workers leave, whose slots are for relays.
 */
void
consumers_make_way(int n)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	while (n-- > 0)
	{
		ConsumerEntry *entry = last_worker();

		if (entry == NULL)
			break;
		entry->yields = true;
		consumers_wake_entry(entry);
	}
	LWLockRelease(registry->lock);
}

/*
 * The worker that was to give its slot to a relay has done so: its entry may
 * have a process again.
 */
void
consumers_has_made_way(ConsumerEntry *entry)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (entry->pid == 0)
		entry->yields = false;
	LWLockRelease(registry->lock);
}

/*
 * Ends the process of an entry, if it still is that one.
 */
void
consumers_end(ConsumerEntry *entry, pid_t pid)
{
	LWLockAcquire(registry->lock, LW_SHARED);
	if (pid != 0 && entry->pid == pid)
		kill(pid, SIGTERM);
	LWLockRelease(registry->lock);
}

/*
 * Shows why a consumer could not be started.
 */
void
consumers_report_failure(ConsumerEntry *entry, const char *message)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&entry->mutex);
	consumers_set_state(&entry->status, CONSUMER_STOPPED);
	entry->status.error_at = now;
	strlcpy(entry->status.error, message, CONSUMER_MESSAGE_LEN);
	SpinLockRelease(&entry->mutex);
}

/*
 * Runs after the process has left the database's proc array entry, so that
 * whoever waits for us finds the database free.
 */
static void
consumer_detach(int code, Datum arg)
{
	ConsumerEntry *entry = attached_entry;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry->pid = 0;
	entry->latch = NULL;
	SpinLockAcquire(&entry->mutex);
	consumers_set_state(&entry->status, CONSUMER_STOPPED);
	if (last_words() != NULL)
	{
		strlcpy(entry->status.error, last_words(), CONSUMER_MESSAGE_LEN);
		entry->status.error_at = now;
	}
	SpinLockRelease(&entry->mutex);
	registry_wake_launcher();
	LWLockRelease(registry->lock);
	ConditionVariableBroadcast(&attached_database->left);
}

/*
 * Makes this process the one of an entry.  Must come before it connects to
 * the database.  Returns NULL when it must not: it is not wanted any more, or
 * the database is held.
 */
ConsumerEntry *
consumers_attach(int index)
{
	ConsumerEntry *entry = &consumers->entries[index];
	bool		attached = false;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	attached_database = registry_find(entry->database);
	if (OidIsValid(entry->database) && attached_database != NULL &&
		attached_database->holds == 0 && entry->wanted && entry->pid == 0)
	{
		entry->pid = MyProcPid;
		entry->latch = MyLatch;
		attached = true;
	}
	LWLockRelease(registry->lock);
	if (!attached)
		return NULL;
	attached_entry = entry;
	on_shmem_exit(consumer_detach, (Datum) 0);
	last_error_keep();
	return entry;
}

/*
 * The consumer works: the next start needs no back-off.
 */
void
consumers_progress(ConsumerEntry *entry)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry->failures = 0;
	LWLockRelease(registry->lock);
}

/*
 * Shows the consumer's status to everybody.
 */
void
consumers_show(ConsumerEntry *entry, const ConsumerStatus *status)
{
	SpinLockAcquire(&entry->mutex);
	entry->status = *status;
	SpinLockRelease(&entry->mutex);
}

/*
 * Reads a status.  Waits for nobody.
 */
void
consumers_load(ConsumerEntry *entry, ConsumerStatus *status)
{
	SpinLockAcquire(&entry->mutex);
	*status = entry->status;
	SpinLockRelease(&entry->mutex);
}

/*
 * A number that grows whenever the Kafka settings may have changed.  Read
 * without a lock, as below.
 */
uint64
consumers_configuration(void)
{
	return attached_database->configuration;
}

/*
 * A number that grows whenever inbox.subscription has changed.
 */
uint64
consumers_subscriptions(void)
{
	return attached_database->subscriptions;
}

/*
 * Must this process leave?  Read without a lock: our latch is set after it
 * changes.
 */
bool
consumers_must_leave(const ConsumerEntry *entry)
{
	return !entry->wanted || entry->yields || attached_database->holds > 0 ||
		attached_database->database != entry->database;
}
