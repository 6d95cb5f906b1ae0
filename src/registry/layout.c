/*-------------------------------------------------------------------------
 *
 * layout.c
 *	  Our shared memory, and how the entry of a database is found in it.
 *
 *-------------------------------------------------------------------------
 */
#include "registry/layout.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "core/guc.h"

Registry   *registry = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size
registry_size(void)
{
	return add_size(offsetof(Registry, entries),
					mul_size(outbox_max_databases, sizeof(DatabaseEntry)));
}

static void
registry_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(registry_size());
	RequestNamedLWLockTranche("outbox", 1);
}

static void
registry_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	registry = ShmemInitStruct("outbox", registry_size(), &found);
	if (!found)
	{
		memset(registry, 0, registry_size());
		registry->lock = &GetNamedLWLockTranche("outbox")->lock;
		registry->size = outbox_max_databases;
		pg_atomic_init_u64(&registry->rounds, 0);
		pg_atomic_init_u64(&registry->reloads, 0);
		for (int i = 0; i < registry->size; i++)
		{
			ConditionVariableInit(&registry->entries[i].left);
			ConditionVariableInit(&registry->entries[i].moved);
			SpinLockInit(&registry->entries[i].mutex);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Asks for shared memory.  Call from _PG_init while shared_preload_libraries
 * is being processed.
 */
void
shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = registry_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = registry_startup;
}

/*
 * The entry of a database, or NULL.  Needs the lock, or tolerance.
 */
DatabaseEntry *
registry_find(Oid database)
{
	if (registry == NULL)
		return NULL;
	for (int i = 0; i < registry->size; i++)
		if (registry->entries[i].database == database)
			return &registry->entries[i];
	return NULL;
}

/*
 * Makes the launcher look at the registry.  Needs the lock.
 */
void
registry_wake_launcher(void)
{
	if (registry->launcher_latch)
		SetLatch(registry->launcher_latch);
}
