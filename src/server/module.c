/*-------------------------------------------------------------------------
 *
 * server/module.c
 *	  The library's entry: settings, shared memory, hooks and the launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "core/guc.h"
#include "registry/consumers.h"
#include "registry/layout.h"
#include "server/command_hooks.h"
#include "server/launcher.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/*
 * Runs when the library is loaded.  Without shared_preload_libraries only
 * the SQL functions work: events are stored, and wait for a relay.
 */
void
_PG_init(void)
{
	guc_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	shmem_init();
	consumers_shmem_init();
	hooks_init();
	launcher_register();
}
