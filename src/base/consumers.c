/*-------------------------------------------------------------------------
 *
 * consumers.c
 *	  The consumers of all databases in shared memory.
 *
 * The registry of databases (shmem.c) says who may be in a database at all:
 * a consumer attaches only where the registry has the database and nobody
 * wants it empty.  A command that does want it empty dismisses the consumers;
 * the relay lists the subscriptions again when it comes back.
 *
 *-------------------------------------------------------------------------
 */
#include "base/consumers.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "base/lastwords.h"
#include "base/registry.h"

typedef struct Consumers
{
	int			size;
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
					mul_size(outbox_max_consumers, sizeof(ConsumerEntry)));
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
		consumers->size = outbox_max_consumers;
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

ConsumerEntry *
consumers_entry(int index)
{
	return &consumers->entries[index];
}

/* The entry of a worker, or NULL.  Needs the lock. */
static ConsumerEntry *
find_entry(Oid database, const char *name, int worker)
{
	for (int i = 0; i < consumers_size(); i++)
	{
		ConsumerEntry *entry = &consumers->entries[i];

		if (entry->database == database && entry->worker == worker &&
			strcmp(entry->name, name) == 0)
			return entry;
	}
	return NULL;
}

/* Finds or makes an entry; NULL when there is no room.  Needs the lock. */
static ConsumerEntry *
make_entry(Oid database, const char *name, int worker)
{
	ConsumerEntry *entry = find_entry(database, name, worker);

	for (int i = 0; i < consumers_size() && entry == NULL; i++)
	{
		if (OidIsValid(consumers->entries[i].database))
			continue;
		entry = &consumers->entries[i];
		strlcpy(entry->name, name, CONSUMER_NAME_LEN);
		entry->worker = worker;
		entry->wanted = false;
		entry->generation = 0;
		entry->pid = 0;
		entry->latch = NULL;
		entry->failures = 0;
		memset(&entry->under_way, 0, sizeof(MessageSet));
		memset(&entry->suspects, 0, sizeof(MessageSet));
		entry->seasoned = false;
		SpinLockAcquire(&entry->mutex);
		memset(&entry->status, 0, sizeof(entry->status));
		entry->status.lag = -1;
		SpinLockRelease(&entry->mutex);
		entry->database = database;
	}
	return entry;
}

/* Makes a consumer look at its entry.  Needs the lock. */
static void
wake(ConsumerEntry *entry)
{
	if (entry->latch)
		SetLatch(entry->latch);
}

/*
 * Makes the launcher send a scout to a database, which the registry must
 * have.
 */
void
consumers_request_scout(Oid database)
{
	ConsumerEntry *entry;

	if (registry == NULL || consumers == NULL)
		return;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database) ? make_entry(database, "", SCOUT_WORKER) :
		NULL;
	if (entry)
	{
		entry->wanted = true;
		entry->generation++;	/* one that is there looks once more */
		entry->failures = 0;
		wake(entry);
	}
	registry_wake_launcher();
	LWLockRelease(registry->lock);
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
		wake(entry);
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
			wake(&consumers->entries[i]);
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

/* Makes the entries of one subscription.  Needs the lock. */
static bool
list_subscription(Oid database, const ListedSubscription *subscription)
{
	for (int worker = 0; worker < subscription->workers; worker++)
	{
		ConsumerEntry *entry = make_entry(database, subscription->name, worker);

		if (entry == NULL)
			return false;
		if (entry->generation != subscription->generation)
			entry->failures = 0;
		entry->generation = subscription->generation;
		entry->wanted = entry->listed = true;
	}
	return true;
}

/*
 * Says which subscriptions of a database shall have workers.  Returns false
 * when there is no room for all of them.
 */
bool
consumers_publish_list(Oid database, const ListedSubscription *list, int n)
{
	DatabaseEntry *owner;
	bool		room = true;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	for (int i = 0; i < consumers_size(); i++)
		consumers->entries[i].listed = false;
	for (int i = 0; i < n; i++)
		room &= list_subscription(database, &list[i]);
	owner = registry_find(database);
	if (owner)
		owner->crowded = !room;
	for (int i = 0; i < consumers_size(); i++)
	{
		ConsumerEntry *entry = &consumers->entries[i];

		if (entry->database != database || entry->worker == SCOUT_WORKER)
			continue;
		entry->wanted = entry->listed;
		wake(entry);
	}
	registry_wake_launcher();
	LWLockRelease(registry->lock);
	return room;
}

/*
 * Was there no room for all consumers of a database, when they were listed?
 * Takes no lock.
 */
bool
consumers_crowded(Oid database)
{
	DatabaseEntry *entry = registry ? registry_find(database) : NULL;

	return entry != NULL && entry->crowded;
}

/*
 * A scout has done its work.  Returns false when somebody asked again since
 * it read the entry's generation.
 */
bool
consumers_finish_scout(ConsumerEntry *entry, int64 generation)
{
	bool		finished;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	finished = entry->generation == generation;
	if (finished)
		entry->wanted = false;
	LWLockRelease(registry->lock);
	return finished;
}

/*
 * Frees an entry that is not wanted and has no process.
 */
void
consumers_release(ConsumerEntry *entry)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (!entry->wanted && entry->pid == 0)
		entry->database = InvalidOid;
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
	last_words_keep();
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
	return !entry->wanted || attached_database->holds > 0 ||
		attached_database->database != entry->database;
}
