/*-------------------------------------------------------------------------
 *
 * consumer_supervisor.c
 *	  The launcher's part in consumers: starts what is wanted and not there.
 *
 * An entry (see consumers.h) goes through these states:
 *
 *	 due		wanted and without a process; it is started now, or after a
 *				back-off that doubles from 1 s to 1 min with each start
 *				without progress
 *	 starting	a process was registered and has not attached yet
 *	 running	a process is attached
 *	 unwanted	it is freed as soon as its process has left; one that does not
 *				leave, because a handler runs, is ended
 *
 * Scouts come first: only they bring the news that a subscription shall rest,
 * which may be what gives others room.  So while one of them finds no free
 * slot, no consumer is started.
 *
 * Relays come before all of them.  While one finds no free slot, no consumer
 * is started, and one of those that are running makes way for it.
 *
 *-------------------------------------------------------------------------
 */
#include "server/consumer_supervisor.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/table/ring.h"
#include "registry/consumer_entry.h"
#include "registry/consumers.h"
#include "registry/layout.h"
#include "registry/subscription_list.h"
#include "server/worker_start.h"

#define NO_SLOT_RETRY_MS 1000
#define SCOUT_INTERVAL_MS 600000
#define LEAVE_MS 10000			/* to finish a batch, for who shall leave */

/* What the launcher remembers about a start, by entry. */
typedef struct ConsumerStart
{
	BackgroundWorkerHandle *handle; /* NULL unless starting */
	TimestampTz not_before;		/* end of the back-off; 0 when none was set */
	bool		no_slot_reported;
	TimestampTz leave_until;	/* end of the time to leave; 0 if it may stay */
} ConsumerStart;

/* A copy of what the launcher wants to know of an entry. */
typedef struct EntryView
{
	Oid			database;
	int			worker;
	bool		wanted;
	bool		yields;
	bool		held;
	pid_t		pid;
	int			failures;
	char		name[CONSUMER_NAME_LEN];
} EntryView;

static ConsumerStart *starts;
static bool scout_waits;		/* for a slot, in this look at the entries */
static int	relays_waiting;		/* for one, in this look at the databases */

/*
 * Makes the launcher's notes.  Call in TopMemoryContext.
 */
void
consumer_supervisor_init(void)
{
	starts = palloc0(sizeof(ConsumerStart) * consumers_size());
}

static void
look_at(const ConsumerEntry *entry, EntryView *view)
{
	DatabaseEntry *database;

	LWLockAcquire(registry->lock, LW_SHARED);
	view->database = entry->database;
	view->worker = entry->worker;
	view->wanted = entry->wanted;
	view->yields = entry->yields;
	view->pid = entry->pid;
	view->failures = entry->failures;
	strlcpy(view->name, entry->name, CONSUMER_NAME_LEN);
	database = OidIsValid(entry->database) ? registry_find(entry->database) : NULL;
	view->held = database == NULL || database->holds > 0;
	LWLockRelease(registry->lock);
}

/*
 * A relay has found no free slot: some consumer is to make way.
 */
void
consumer_supervisor_make_way(void)
{
	relays_waiting++;
}

/* Counts a start of a consumer; the consumer resets the count by progress. */
static void
count_start(ConsumerEntry *entry)
{
	LWLockAcquire(registry->lock, LW_EXCLUSIVE);
	entry->failures++;
	LWLockRelease(registry->lock);
}

/* There is no slot for an entry's process: shows it, and says so once. */
static void
report_no_slot(int index, const EntryView *view)
{
	consumers_report_failure(consumers_entry(index),
							 "no free background worker slot; raise max_worker_processes");
	if (!starts[index].no_slot_reported)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 view->worker == SCOUT_WORKER ?
				 errmsg("no free background worker slot to look for subscriptions in database %u",
						view->database) :
				 errmsg("no free background worker slot for a consumer of subscription \"%s\" in database %u",
						view->name, view->database),
				 errdetail("Its messages wait in Kafka; the launcher keeps trying."),
				 errhint("Raise max_worker_processes and restart the server.")));
	starts[index].no_slot_reported = true;
}

/*
 * Registers a process for an entry.  When the server has no free slot for a
 * background worker, says so once and tries again later.
 */
static void
start_consumer(int index, const EntryView *view, TimestampTz now)
{
	ConsumerStart *start = &starts[index];

	start->not_before = 0;
	if (launcher_start_worker("outbox consumer", "outbox_consumer_main",
							  Int32GetDatum(index), view->database,
							  &start->handle))
	{
		start->no_slot_reported = false;
		count_start(consumers_entry(index));
		return;
	}
	start->handle = NULL;
	start->not_before = TimestampTzPlusMilliseconds(now, NO_SLOT_RETRY_MS);
	scout_waits |= view->worker == SCOUT_WORKER;
	report_no_slot(index, view);
}

/*
 * Ends a consumer that shall leave and has not done so for long.  Returns when
 * to look again.
 */
static TimestampTz
see_off(int index, const EntryView *view, TimestampTz now)
{
	ConsumerStart *start = &starts[index];

	if (start->leave_until > now)
		return start->leave_until;
	if (start->leave_until != 0)
	{
		ereport(LOG,
				(errmsg("ending a consumer of subscription \"%s\" that has not left for %d seconds",
						view->name, LEAVE_MS / 1000)));
		consumers_end(consumers_entry(index), view->pid);
	}
	start->leave_until = TimestampTzPlusMilliseconds(now, LEAVE_MS);
	return start->leave_until;
}

/*
 * May the entry's process be started now?  When one ends, we are woken, and a
 * scout that waits for its slot does not let others have it.
 */
static bool
is_due(const ConsumerStart *start, const EntryView *view, TimestampTz now)
{
	if (view->worker == SCOUT_WORKER && start->no_slot_reported)
		return true;
	return start->not_before <= now;
}

/*
 * Moves one entry on, if it is that of a scout or, if not, of a consumer.
 * Returns when it wants to be looked at again, or DT_NOEND when something will
 * wake us.
 */
static TimestampTz
tend_entry(int index, bool scout)
{
	ConsumerStart *start = &starts[index];
	TimestampTz now = monotonic_now();
	EntryView	view;
	pid_t		pid;

	look_at(consumers_entry(index), &view);
	if ((view.worker == SCOUT_WORKER) != scout)
		return DT_NOEND;
	if (view.pid != 0)
	{
		start->not_before = 0;
		if (!view.wanted || view.yields)
			return see_off(index, &view, now);
		start->leave_until = 0;
		return DT_NOEND;
	}
	start->leave_until = 0;
	if (start->handle)
	{
		if (GetBackgroundWorkerPid(start->handle, &pid) != BGWH_STOPPED)
			return DT_NOEND;
		pfree(start->handle);
		start->handle = NULL;
		start->not_before = 0;
	}
	if (view.yields)
		consumers_has_made_way(consumers_entry(index));
	if (!OidIsValid(view.database))
		return DT_NOEND;
	if (!view.wanted)
	{
		consumers_release(consumers_entry(index));
		memset(start, 0, sizeof(ConsumerStart));
		return DT_NOEND;
	}
	if (view.held)
		return DT_NOEND;
	if (start->not_before == 0 ||
		(view.failures == 0 && !start->no_slot_reported))
		start->not_before = launcher_backoff_end(view.failures, now);
	if (!is_due(start, &view, now))
		return start->not_before;
	if (relays_waiting > 0 && !scout)
		report_no_slot(index, &view);
	if ((relays_waiting > 0 || scout_waits) && !scout)
		return DT_NOEND;		/* they have us look again */
	start_consumer(index, &view, now);
	return start->not_before > now ? start->not_before : DT_NOEND;
}

/*
 * Sends a scout to every database now and then: it removes what
 * inbox.receive() kept long enough, also where nobody subscribes.  Returns when
 * the next ones are due.
 */
static TimestampTz
send_scouts(void)
{
	static TimestampTz sent = 0;
	TimestampTz now = monotonic_now();
	long		interval = ring_expire_interval(SCOUT_INTERVAL_MS);

	if (sent != 0 && !TimestampDifferenceExceeds(sent, now, interval))
		return TimestampTzPlusMilliseconds(sent, interval);
	for (int i = 0; i < registry->size && sent != 0; i++)
		if (registry->entries[i].pid != 0)
			consumers_request_scout(registry->entries[i].database);
	sent = now;
	return TimestampTzPlusMilliseconds(sent, interval);
}

/*
 * How many consumers are about to leave, or have left since the last look?
 * Their slots are free, or will be without that others leave.  The relays of
 * this look may have come too early for them.
 */
static int
count_leaving(void)
{
	int			leaving = 0;

	for (int i = 0; i < consumers_size(); i++)
	{
		EntryView	view;

		look_at(consumers_entry(i), &view);
		if (OidIsValid(view.database) &&
			(view.yields ||
			 (!view.wanted && (view.pid != 0 || starts[i].handle))))
			leaving++;
	}
	return leaving;
}

/*
 * Looks at every entry once; returns when it wants to look again, or
 * DT_NOEND.
 */
TimestampTz
consumer_supervisor_tend(void)
{
	TimestampTz next = send_scouts();

	scout_waits = false;
	if (relays_waiting > 0)
		consumers_make_way(relays_waiting - count_leaving());
	for (int i = 0; i < 2 * consumers_size(); i++)
	{
		TimestampTz wanted = tend_entry(i % consumers_size(),
										i < consumers_size());

		next = Min(next, wanted);
	}
	relays_waiting = 0;
	return next;
}
