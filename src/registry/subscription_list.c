/*-------------------------------------------------------------------------
 *
 * subscription_list.c
 *	  Which entries of consumers.c there are, and for whom.
 *
 * Workers have room for outbox.max_consumers.  Who finds none waits: when an
 * entry is freed, in whatever database, those that are crowded list their
 * subscriptions anew.  Scouts have entries of their own, as many as there may
 * be databases.  For a moment even these may be taken, by scouts of databases
 * that have gone; then the scout is owed, and follows as soon as there is one.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/subscription_list.h"

#include "registry/consumer_entry.h"
#include "registry/consumers.h"
#include "registry/layout.h"

/* The entry of a worker, or NULL.  Needs the lock. */
static ConsumerEntry *
find_entry(Oid database, const char *name, int worker)
{
	for (int i = 0; i < consumers_size(); i++)
	{
		ConsumerEntry *entry = consumers_entry(i);

		if (entry->database == database && entry->worker == worker &&
			strcmp(entry->name, name) == 0)
			return entry;
	}
	return NULL;
}

/* A free entry, or NULL.  Needs the lock. */
static ConsumerEntry *
free_entry(bool scout)
{
	int			first = scout ? consumers_workers() : 0;
	int			end = scout ? consumers_size() : consumers_workers();

	for (int i = first; i < end; i++)
		if (!OidIsValid(consumers_entry(i)->database))
			return consumers_entry(i);
	return NULL;
}

/* Finds or makes an entry; NULL when there is no room.  Needs the lock. */
static ConsumerEntry *
make_entry(Oid database, const char *name, int worker)
{
	ConsumerEntry *entry = find_entry(database, name, worker);

	if (entry != NULL)
		return entry;
	entry = free_entry(worker == SCOUT_WORKER);
	if (entry == NULL)
		return NULL;
	strlcpy(entry->name, name, CONSUMER_NAME_LEN);
	entry->worker = worker;
	entry->wanted = entry->yields = false;
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
	return entry;
}

/* Makes the launcher send a scout.  Needs the lock. */
static void
request_scout(DatabaseEntry *database)
{
	ConsumerEntry *entry = make_entry(database->database, "", SCOUT_WORKER);

	database->scout_owed = entry == NULL;
	if (entry)
	{
		entry->wanted = true;
		entry->generation++;	/* one that is there looks once more */
		entry->failures = 0;
		consumers_wake_entry(entry);
	}
	registry_wake_launcher();
}

/*
 * Makes the launcher send a scout to a database, which the registry must
 * have.
 */
void
consumers_request_scout(Oid database)
{
	DatabaseEntry *entry;

	if (registry == NULL)
		return;
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry = registry_find(database);
	if (entry)
		request_scout(entry);
	LWLockRelease(registry->lock);
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
 * A number that grows whenever inbox.subscription of a database has changed; 0
 * when the registry does not have it.  To be taken before a list is read.
 */
uint64
consumers_list_number(Oid database)
{
	DatabaseEntry *owner;
	uint64		number;

	LWLockAcquire(registry->lock, LW_SHARED);
	owner = registry_find(database);
	number = owner ? owner->subscriptions : 0;
	LWLockRelease(registry->lock);
	return number;
}

/*
 * Says which subscriptions of a database shall have workers, those first that
 * come first when there is no room for all: consumers_crowded() tells.  Scouts
 * and the relay do that, perhaps at a time, and what was read before a change
 * must not undo what was read after it.  So returns false, and does nothing,
 * when there was one since the number was taken: the list is to be read anew.
 */
bool
consumers_publish_list(Oid database, uint64 number,
					   const ListedSubscription *list, int n)
{
	DatabaseEntry *owner;
	bool		room = true;

	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	owner = registry_find(database);
	if (owner && owner->subscriptions != number)
	{
		LWLockRelease(registry->lock);
		return false;
	}
	for (int i = 0; i < consumers_workers(); i++)
		consumers_entry(i)->listed = false;
	for (int i = 0; i < n; i++)
		room &= list_subscription(database, &list[i]);
	if (owner)
		owner->crowded = !room;
	for (int i = 0; i < consumers_workers(); i++)
	{
		ConsumerEntry *entry = consumers_entry(i);

		if (entry->database != database)
			continue;
		entry->wanted = entry->listed;
		consumers_wake_entry(entry);
	}
	registry_wake_launcher();
	LWLockRelease(registry->lock);
	return true;
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

/* Has those look again who have found no room.  Needs the lock. */
static void
announce_room(bool for_scouts)
{
	for (int i = 0; i < registry->size; i++)
	{
		DatabaseEntry *entry = &registry->entries[i];

		if (OidIsValid(entry->database) &&
			(for_scouts ? entry->scout_owed : entry->crowded))
			request_scout(entry);
	}
}

/*
 * Frees an entry that is not wanted and has no process.
 */
void
consumers_release(ConsumerEntry *entry)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	if (OidIsValid(entry->database) && !entry->wanted && entry->pid == 0)
	{
		bool		scout = entry->worker == SCOUT_WORKER;

		entry->database = InvalidOid;
		announce_room(scout);
	}
	LWLockRelease(registry->lock);
}
