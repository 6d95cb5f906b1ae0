/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: one static background worker that gives each database
 *	  that holds the extension its relay.
 *
 * It connects to no database.  When it starts it puts every database that
 * takes connections into the registry; afterwards CREATE EXTENSION and CREATE
 * DATABASE add theirs (see hooks.c).  A database in the registry goes through
 * these states:
 *
 *	 due		no relay; it is started now, or after a back-off that
 *				doubles from 1 s to 1 min with each start without progress
 *	 starting	a relay was registered and has not attached yet
 *	 running	a relay is attached
 *	 held		a utility command wants the database to be empty
 *	 absent		a relay looked and found no extension: it is forgotten until
 *				somebody asks again
 *
 * Template databases are left alone, so that CREATE DATABASE never has to
 * wait for us.
 *
 *-------------------------------------------------------------------------
 */
#include "base/launcher.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "base/shmem.h"
#include "base/worker.h"

#define MAX_BACKOFF_S 60
#define NO_SLOT_RETRY_MS 1000

/* What the launcher remembers about a start, by database. */
typedef struct RelayStart
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL unless starting */
	TimestampTz not_before;		/* end of the back-off; 0 when none was set */
	bool		no_slot_reported;
} RelayStart;

static RelayStart *starts;

/*
 * Registers the launcher.  Call from _PG_init in the postmaster.
 */
void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_name, "outbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "outbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, WORKER_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "outbox_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * Puts every database that can publish into the registry.
 */
static void
request_all_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datistemplate || !form->datallowconn)
			continue;
		if (!shmem_request_relay(form->oid))
		{
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("not every database can have a relay"),
					 errdetail("The server has more than %d databases.",
							   outbox_max_databases),
					 errhint("Raise outbox.max_databases and restart the server.")));
			break;
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* Does the database exist, take connections, and is it no template? */
static bool
database_can_publish(Oid database)
{
	HeapTuple	tuple;
	bool		result = false;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		result = form->datallowconn && !form->datistemplate;
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	return result;
}

/* The launcher's notes about a database; made when there are none. */
static RelayStart *
start_of(Oid database)
{
	RelayStart *unused = NULL;

	for (int i = 0; i < outbox_max_databases; i++)
	{
		if (starts[i].database == database)
			return &starts[i];
		if (unused == NULL && !OidIsValid(starts[i].database))
			unused = &starts[i];
	}
	if (unused == NULL)
		elog(ERROR, "no room for the start of a relay");
	memset(unused, 0, sizeof(RelayStart));
	unused->database = database;
	return unused;
}

static void
forget(RelayStart *start)
{
	if (start->handle)
		pfree(start->handle);
	shmem_forget_database(start->database);
	memset(start, 0, sizeof(RelayStart));
}

/*
 * Registers a relay for the database.  When the server has no free slot for
 * a background worker, says so once and tries again later.
 */
static void
start_relay(RelayStart *start, TimestampTz now)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = ObjectIdGetDatum(start->database);
	snprintf(worker.bgw_name, BGW_MAXLEN, "outbox relay for database %u",
			 start->database);
	strlcpy(worker.bgw_type, "outbox relay", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, WORKER_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "outbox_relay_main", BGW_MAXLEN);

	start->not_before = 0;
	if (RegisterDynamicBackgroundWorker(&worker, &start->handle))
	{
		start->no_slot_reported = false;
		shmem_count_start(start->database);
		return;
	}

	start->handle = NULL;
	start->not_before = TimestampTzPlusMilliseconds(now, NO_SLOT_RETRY_MS);
	shmem_report_failure(start->database,
						 "no free background worker slot; raise max_worker_processes");
	if (!start->no_slot_reported)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free background worker slot for the outbox relay of database %u",
						start->database),
				 errdetail("Its events wait; the launcher keeps trying."),
				 errhint("Raise max_worker_processes and restart the server.")));
	start->no_slot_reported = true;
}

/* The relay that was starting has ended without attaching? */
static bool
start_has_ended(RelayStart *start)
{
	pid_t		pid;

	return start->handle == NULL ||
		GetBackgroundWorkerPid(start->handle, &pid) == BGWH_STOPPED;
}

/* When a relay that made no progress may be started again. */
static TimestampTz
backoff_end(const DatabaseInfo *info, TimestampTz now)
{
	int			seconds;

	if (info->failures == 0)
		return now;
	seconds = Min(MAX_BACKOFF_S, 1 << Min(info->failures - 1, 6));
	return TimestampTzPlusMilliseconds(now, seconds * 1000L);
}

/*
 * Moves one database on; returns when it wants to be looked at again, or
 * DT_NOEND when something will wake us.
 */
static TimestampTz
tend_database(const DatabaseInfo *info)
{
	RelayStart *start = start_of(info->database);
	TimestampTz now = GetCurrentTimestamp();

	if (info->pid != 0)
	{
		start->not_before = 0;
		return DT_NOEND;
	}
	if (!start_has_ended(start))
		return DT_NOEND;
	if (start->handle)
	{
		pfree(start->handle);
		start->handle = NULL;
		start->not_before = 0;
	}
	if (info->absent)
	{
		forget(start);
		return DT_NOEND;
	}
	if (info->held)
		return DT_NOEND;

	if (start->not_before == 0 ||
		(info->failures == 0 && !start->no_slot_reported))
		start->not_before = backoff_end(info, now);
	if (start->not_before > now)
		return start->not_before;

	if (!database_can_publish(info->database))
	{
		forget(start);
		return DT_NOEND;
	}
	start_relay(start, now);
	return start->not_before > now ? start->not_before : DT_NOEND;
}

/*
 * Looks at every database once; returns the time to wait, in ms, or -1.
 */
static long
tend_all_databases(DatabaseInfo *list)
{
	TimestampTz next = DT_NOEND;
	int			n = shmem_list_databases(list, outbox_max_databases);

	for (int i = 0; i < n; i++)
		next = Min(next, tend_database(&list[i]));
	if (next == DT_NOEND)
		return -1;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) + 1;
}

/*
 * Entry point of the launcher process.
 */
void
outbox_launcher_main(Datum arg)
{
	DatabaseInfo *list;

	worker_setup_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	shmem_launcher_attach();

	starts = MemoryContextAllocZero(TopMemoryContext,
									sizeof(RelayStart) * outbox_max_databases);
	list = MemoryContextAllocZero(TopMemoryContext,
								  sizeof(DatabaseInfo) * outbox_max_databases);
	MemoryContextSwitchTo(TopMemoryContext);
	request_all_databases();

	for (;;)
	{
		long		timeout;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		worker_handle_reload();
		timeout = tend_all_databases(list);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
						 (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, PG_WAIT_EXTENSION);
	}
}
