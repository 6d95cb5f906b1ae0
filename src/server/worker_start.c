/*-------------------------------------------------------------------------
 *
 * worker_start.c
 *	  Starts background workers of ours, and when one that failed is started again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "server/worker_start.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "registry/worker_reload.h"

#define MAX_BACKOFF_S 60

/*
 * Registers a worker of a database, with its type, entry point and argument.
 * Returns false when the server has no free slot for a background worker.
 */
bool
launcher_start_worker(const char *type, const char *function, Datum arg,
					  Oid database, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = arg;
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", type, database);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, WORKER_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	worker_tell_reloads(&worker);
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * When a worker that has failed so often without progress may be started
 * again, by monotonic_now() as "now" is.
 */
TimestampTz
launcher_backoff_end(int failures, TimestampTz now)
{
	int			seconds;

	if (failures == 0)
		return now;
	seconds = Min(MAX_BACKOFF_S, 1 << Min(failures - 1, 6));
	return TimestampTzPlusMilliseconds(now, seconds * 1000L);
}
