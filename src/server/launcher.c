/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: one static background worker that gives each database
 *	  that holds the extension its relay.
 *
 * It connects to no database.  When it starts it puts every database that
 * takes connections into the registry, as fast as there is room; afterwards
 * CREATE EXTENSION and CREATE DATABASE add theirs (see command_hooks.c).  A
 * database in the registry goes through these states:
 *
 *	 due		no relay; it is started now, or after a back-off that
 *				doubles from 1 s to 1 min with each start without progress,
 *				and with each that ended with an error, whatever it got done
 *	 starting	a relay was registered and has not attached yet
 *	 running	a relay is attached; it is looking until it has found the
 *				extension, and few may look at the same time, since most
 *				databases of a server need no relay
 *	 held		a utility command wants the database to be empty
 *	 absent		a relay looked and found no extension: it is forgotten until
 *				somebody asks again
 *
 * It also starts the consumers of subscriptions: see consumer_supervisor.c;
 * and keeps the slots of relays that have not acquired theirs within bounds:
 * see replication_slot.c.  On a standby that is all it does until promotion.
 *
 * Template databases are left alone, so that CREATE DATABASE never has to
 * wait for us.
 *
 *-------------------------------------------------------------------------
 */
#include "server/launcher.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
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

#include "core/background_worker.h"
#include "core/compat.h"
#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "core/replication_slot.h"
#include "core/worker_session.h"
#include "kafka/producer/producer.h"
#include "registry/databases.h"
#include "registry/launcher_view.h"
#include "registry/worker_reload.h"
#include "server/consumer_supervisor.h"
#include "server/worker_start.h"

#define LASTING_MS 60000		/* who ran for so long had a reason to end, */
#define LASTING_FACTOR 2		/* if it is so many times the pause before */
#define NO_SLOT_RETRY_MS 1000
#define MAX_LOOKING 4
#define LOOKING_RETRY_MS 50
#define PROMOTION_LOOK_MS 200

/* What the launcher remembers about a start, by database. */
typedef struct RelayStart
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL unless starting */
	TimestampTz started_at;		/* the last start; 0 when there was none */
	TimestampTz not_before;		/* end of the back-off; 0 when none was set */
	long		pause_ms;		/* how long that was */
	bool		lasted;			/* the last relay ran for much longer */
	bool		no_slot_reported;
	bool		listed;			/* the registry has the database */
} RelayStart;

static RelayStart *starts;
static List *unasked = NIL;		/* databases still to go into the registry */
static bool full_reported = false;

/*
 * Registers the launcher.  Call from _PG_init in the postmaster.
 */
void
launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_ConsistentState;
	worker.bgw_restart_time = 1;
	strlcpy(worker.bgw_name, "outbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "outbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, WORKER_LIBRARY, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "outbox_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * May the database have a relay?  Template databases and those that take no
 * connections may not.
 */
static bool
can_publish(Form_pg_database form)
{
	return form->datallowconn && !form->datistemplate &&
		!compat_database_invalid(form);
}

/*
 * Makes a note of every database that can publish.
 */
static void
list_unasked_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	list_free(unasked);
	unasked = NIL;
	worker_begin();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (can_publish(form))
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			unasked = lappend_oid(unasked, form->oid);
			MemoryContextSwitchTo(old);
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/*
 * Puts databases that were not asked yet into the registry, which has so many
 * already, while there is room.
 */
static void
ask_databases(int listed)
{
	if (shmem_overflowed())
		list_unasked_databases();
	while (unasked != NIL && listed < outbox_max_databases &&
		   shmem_request_relay(linitial_oid(unasked)))
	{
		unasked = list_delete_first(unasked);
		listed++;
	}
}

/* When only databases with a relay are in the way of others, says so once. */
static void
report_full(const DatabaseInfo *list, int n)
{
	if (unasked == NIL || n < outbox_max_databases || full_reported)
		return;
	for (int i = 0; i < n; i++)
		if (list[i].pid == 0 || list[i].looking)
			return;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("not every database can have a relay"),
			 errdetail("%d databases have one, and %d more may need one.",
					   n, list_length(unasked)),
			 errhint("Raise outbox.max_databases and restart the server.")));
	full_reported = true;
}

/*
 * The name of a database, in name (NAMEDATALEN bytes).  Returns false when it
 * has gone or cannot publish.
 */
static bool
database_can_publish(Oid database, char *name)
{
	HeapTuple	tuple;
	bool		result = false;

	worker_begin();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		result = can_publish(form);
		strlcpy(name, NameStr(form->datname), NAMEDATALEN);
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
forget_start(RelayStart *start)
{
	if (start->handle)
		pfree(start->handle);
	memset(start, 0, sizeof(RelayStart));
}

/* Forgets the starts of databases that the registry no longer has. */
static void
forget_old_starts(const DatabaseInfo *list, int n)
{
	for (int i = 0; i < outbox_max_databases; i++)
		starts[i].listed = false;
	for (int i = 0; i < outbox_max_databases; i++)
		for (int j = 0; j < n && !starts[i].listed; j++)
			starts[i].listed = starts[i].database == list[j].database;
	for (int i = 0; i < outbox_max_databases; i++)
		if (!starts[i].listed)
			forget_start(&starts[i]);
}

/*
 * Registers a relay for the database.  When the server has no free slot for
 * a background worker, says so once and tries again later.
 */
static void
start_relay(RelayStart *start, const char *name, bool afresh, TimestampTz now)
{
	start->not_before = 0;
	if (launcher_start_worker("outbox relay", "outbox_relay_main",
							  ObjectIdGetDatum(start->database),
							  start->database, &start->handle))
	{
		start->started_at = now;
		start->no_slot_reported = false;
		shmem_count_start(start->database, afresh);
		return;
	}

	start->handle = NULL;
	start->not_before = TimestampTzPlusMilliseconds(now, NO_SLOT_RETRY_MS);
	shmem_report_failure(start->database,
						 "no free background worker slot; raise max_worker_processes");
	consumer_supervisor_make_way();
	if (!start->no_slot_reported)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no free background worker slot for the outbox relay of database \"%s\"",
						name),
				 errdetail("If it holds the extension, its events wait; the launcher keeps trying."),
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

/*
 * How often a relay has failed: got nothing done, or ended with an error.  One
 * that lasted counts as the first.
 */
static int
count_failures(const DatabaseInfo *info, const RelayStart *start)
{
	int			failures = Max(info->failures, info->failed ? info->errors : 0);

	return start->lasted ? Min(failures, 1) : failures;
}

/*
 * Moves one database on; returns when it wants to be looked at again, or
 * DT_NOEND when something will wake us.
 */
static TimestampTz
tend_database(const DatabaseInfo *info, int *looking)
{
	RelayStart *start = start_of(info->database);
	TimestampTz now = monotonic_now();
	char		name[NAMEDATALEN];

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
		start->lasted = TimestampDifferenceExceeds(start->started_at, now,
												   Max(LASTING_MS, LASTING_FACTOR * start->pause_ms));
	}
	if (info->held)
		return DT_NOEND;
	if (info->absent)
	{
		shmem_forget_database(info);
		return DT_NOEND;
	}

	if (start->not_before == 0 ||
		(count_failures(info, start) == 0 && !start->no_slot_reported))
	{
		start->not_before = launcher_backoff_end(count_failures(info, start), now);
		start->pause_ms = TimestampDifferenceMilliseconds(now, start->not_before);
	}
	if (start->not_before > now && !start->no_slot_reported)
		return start->not_before;
	if (*looking >= MAX_LOOKING)
		return TimestampTzPlusMilliseconds(now, LOOKING_RETRY_MS);
	if (!database_can_publish(info->database, name))
	{
		shmem_forget_database(info);
		return DT_NOEND;
	}
	(*looking)++;
	start_relay(start, name, start->lasted, now);
	return start->not_before > now ? start->not_before : DT_NOEND;
}

/* Is a relay of the database on its way, or has it not looked around yet? */
static bool
is_looking(const DatabaseInfo *info)
{
	return info->pid != 0 ? info->looking :
		!start_has_ended(start_of(info->database));
}

/*
 * Looks at every database once; returns the time to wait, in ms, or -1.
 */
static long
tend_all_databases(DatabaseInfo *list)
{
	TimestampTz next = DT_NOEND;
	int			n = shmem_list_databases(list, outbox_max_databases);
	int			looking = 0;

	forget_old_starts(list, n);
	for (int i = 0; i < n; i++)
		if (is_looking(&list[i]))
			looking++;
	for (int i = 0; i < n; i++)
		next = steady_earlier(next, tend_database(&list[i], &looking));

	next = steady_earlier(next, consumer_supervisor_tend());
	next = steady_earlier(next, slot_limit_unattended());

	n = shmem_list_databases(list, outbox_max_databases);
	ask_databases(n);
	report_full(list, n);
	if (unasked != NIL && !full_reported)
		return LOOKING_RETRY_MS;
	if (next == DT_NOEND)
		return -1;
	return TimestampDifferenceMilliseconds(monotonic_now(), next) + 1;
}

/* Does what is due whenever the latch was set. */
static void
handle_latch(void)
{
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (worker_reload_if_asked())
		shmem_count_reload();
}

/* Waits for the latch, or the time-out in ms; -1 for none. */
static void
wait_latch(long timeout)
{
	(void) WaitLatch(MyLatch,
					 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
					 (timeout >= 0 ? WL_TIMEOUT : 0),
					 timeout, PG_WAIT_EXTENSION);
}

/* On a standby, waits until it is one no more. */
static void
wait_for_promotion(void)
{
	while (RecoveryInProgress())
	{
		handle_latch();
		(void) slot_limit_unattended();
		wait_latch(PROMOTION_LOOK_MS);
	}
}

/*
 * Entry point of the launcher process.
 */
void
outbox_launcher_main(Datum arg)
{
	DatabaseInfo *list;

	worker_setup_signals();
	wait_for_promotion();
	session_connect(InvalidOid);
	shmem_launcher_attach();
	if (producer_library_is_old())
		ereport(LOG,
				(errmsg("librdkafka %s is old: it gives up its producer after some disconnects",
						producer_library_version()),
				 errdetail("A relay survives that by starting over."),
				 errhint("Use librdkafka 2.12 or newer.")));

	starts = MemoryContextAllocZero(TopMemoryContext,
									sizeof(RelayStart) * outbox_max_databases);
	list = MemoryContextAllocZero(TopMemoryContext,
								  sizeof(DatabaseInfo) * outbox_max_databases);
	MemoryContextSwitchTo(TopMemoryContext);
	consumer_supervisor_init();
	list_unasked_databases();

	for (;;)
	{
		handle_latch();
		wait_latch(tend_all_databases(list));
	}
}
