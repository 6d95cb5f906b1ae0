/*-------------------------------------------------------------------------
 *
 * consumer_main.c
 *	  The consumer: a background worker that takes a subscription's messages
 *	  from Kafka into the database.
 *
 * Its life:
 *
 *	 attach		to its entry in shared memory, before it connects
 *	 load		the subscription and the Kafka settings
 *	 find		the partitions that are its, and take their positions over
 *	 consume	batch by batch, and try again what failed
 *
 * Whatever changes its footing (the subscription, the Kafka settings, a
 * command that wants the database empty) ends the process; the launcher
 * starts the next one if it is wanted.  An error ends it as well.  So there is
 * one way to begin, and it is used all the time.
 *
 * A process without a subscription's name is a scout: it lists the
 * subscriptions for the launcher, removes what is old, and ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/worker/consumer_main.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "core/worker_session.h"
#include "inbox/batch/batch.h"
#include "inbox/batch/batch_transaction.h"
#include "inbox/batch/crash_marker.h"
#include "inbox/batch/failure_report.h"
#include "inbox/batch/handler_backoff.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/partition_end.h"
#include "inbox/batch/redelivery.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/redelivery_read.h"
#include "inbox/batch/suspect_attempt.h"
#include "inbox/batch/transaction_limit.h"
#include "inbox/batch/under_way.h"
#include "inbox/batch/unprocessed_rows.h"
#include "inbox/partition/assignment.h"
#include "inbox/partition/lost_messages.h"
#include "inbox/partition/partition_doubt.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"
#include "inbox/process/worker_wait.h"
#include "inbox/worker/consumer_health.h"
#include "inbox/worker/consumer_startup.h"
#include "inbox/worker/maintenance.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"
#include "registry/consumers.h"
#include "registry/worker_reload.h"

#define BATCH_BYTES (4 * 1024 * 1024)
#define COMMIT_INTERVAL_MS 1000
#define LASTING_MS 60000		/* who ran so long counts as working */

/* Looks for partitions when it is time. */
static void
refresh(InboxWorker *worker)
{
	int			before = worker->npartitions;

	partitions_refresh(worker);
	if (worker->npartitions > before)
	{
		culprit_look(worker, before);
		redelivery_load(worker);
	}
	unprocessed_look(worker);
}

/* Fetches and processes what has come; returns whether there may be more. */
static bool
consume(InboxWorker *worker)
{
	const ConsumerHandler handler = {partition_end_note, health_refused, lost_messages_note, worker};
	bool		more;

	worker->nrecords = consumer_fetch(worker->consumer, worker->records,
									  handler_backoff_is_backing_off(worker) ?
									  inbox_transaction_limit(worker) :
									  worker->subscription->batch_size,
									  BATCH_BYTES, &handler, &more);
	marks_check(worker);
	lost_messages_take(worker);
	health_take_errors(worker);
	if (worker->nrecords == 0)
	{
		partition_end_pass(worker);
		return more;
	}
	batch_process(worker);
	worker->offsets_moved = true;
	consumer_release(worker->records, worker->nrecords);
	worker->nrecords = 0;
	partition_end_pass(worker);
	return more;
}

/*
 * Shows offsets to Kafka's tools, now and then.  Returns whether all are.
 */
static bool
commit_offsets(InboxWorker *worker)
{
	TimestampTz now = monotonic_now();

	if (!worker->offsets_moved)
		return true;
	if (!TimestampDifferenceExceeds(worker->committed_at, now,
									COMMIT_INTERVAL_MS))
		return false;
	worker->offsets_moved = false;
	partition_end_store(worker);
	partitions_commit_offsets(worker);
	worker->committed_at = now;
	return true;
}

/*
 * Reports statistics, by which autovacuum goes, at most once a second.  What
 * was too early to report is due later, even if nothing more happens.
 */
static void
report_statistics(InboxWorker *worker)
{
	TimestampTz now = monotonic_now();
	long		pause = pgstat_report_stat(worker->report_at <= now);

	if (pause <= 0)
		worker->report_at = DT_NOEND;
	else if (worker->report_at == DT_NOEND)
		worker->report_at = TimestampTzPlusMilliseconds(now, pause);
}

/* How long to wait for Kafka when nothing is to be done, in ms. */
static long
idle_time(InboxWorker *worker, bool offsets_shown)
{
	TimestampTz now = monotonic_now();
	TimestampTz until = Min(Min(partitions_refresh_due(worker),
								worker->report_at),
							Min(Min(Max(redelivery_queue_due(worker), handler_backoff_due(worker)),
									failure_report_due(worker)),
								lost_messages_due(worker)));

	if (worker->uncounted)
		until = Min(until, TimestampTzPlusMilliseconds(worker->counted_at,
													   SHOW_INTERVAL_MS + 1));
	if (worker->entry->worker == 0)
		until = Min(until, worker->expire_at);
	if (!offsets_shown)
		until = Min(until, TimestampTzPlusMilliseconds(worker->committed_at,
													   COMMIT_INTERVAL_MS + 1));
	return Max(TimestampDifferenceMilliseconds(now, until), 0) + 1;
}

/*
 * Tries again what is due, and processes what has come, unless there is a pause;
 * returns whether there may be more to do.
 */
static bool
take_turn(InboxWorker *worker)
{
	bool		more = false;

	if (handler_backoff_is_pausing(worker))
	{
		consumer_leave(worker->consumer);
		return false;
	}
	if (redelivery_queue_due(worker) <= monotonic_now())
	{
		redelivery_run(worker);
		more = redelivery_queue_due(worker) <= monotonic_now();
	}
	if (!redelivery_queue_is_full(worker))
		more |= consume(worker);
	else
		consumer_leave(worker->consumer);
	handler_backoff_rest(worker);
	return more && !handler_backoff_is_pausing(worker);
}

/* Consumes until something ends the process. */
static void
run(InboxWorker *worker)
{
	for (;;)
	{
		bool		more;
		bool		shown;

		consumer_startup_check(worker);
		refresh(worker);
		more = take_turn(worker);
		health_check(worker, more);
		maintenance_run(worker);
		shown = commit_offsets(worker);
		report_statistics(worker);
		failure_report_check(worker);
		culprit_rest(worker);
		if (!worker->lasted &&
			TimestampDifferenceExceeds(worker->began_at,
									   monotonic_now(), LASTING_MS))
		{
			consumers_progress(worker->entry);
			worker->lasted = true;
		}
		if (more)
		{
			worker_show_sometimes(worker);
			worker_check(worker);
		}
		else
		{
			worker_show(worker);
			worker_wait(worker, idle_time(worker, shown));
		}
	}
}

static InboxWorker *the_worker = NULL;

/* Says why the process was ended. */
static void
show_overdue_handler(InboxWorker *worker)
{
	strlcpy(worker->status.error,
			"the handler went on after handler_timeout, and its process was ended",
			CONSUMER_MESSAGE_LEN);
	worker->status.error_at = GetCurrentTimestamp();
	consumers_show(worker->entry, &worker->status);
	ereport(LOG,
			(errmsg("handler of subscription \"%s\" went on after handler_timeout, so its process ends",
					worker->entry->name)));
}

/* Gives back what librdkafka holds before the process ends. */
static void
worker_exit(int code, Datum arg)
{
	InboxWorker *worker = the_worker;

	if (handler_is_overdue())
		show_overdue_handler(worker);
	else if (consumers_must_leave(worker->entry))
		culprit_clear(worker);
	failure_report_end(worker);
	suspect_attempt_end(worker);
	if (worker->consumer == NULL)
		return;
	consumer_release(worker->records, worker->nrecords);
	worker->nrecords = 0;
	consumer_close(worker->consumer);
	worker->consumer = NULL;
}

/* What is under way is given up on purpose: it is nobody's fault. */
static void
leave(InboxWorker *worker)
{
	/* Perhaps the handler itself is why, and would be for ever. */
	if (worker->phase == PHASE_ANEW)
	{
		culprit_suspect(worker);
		charge_note(worker, NULL);
	}
	culprit_clear(worker);
}

static InboxWorker *
worker_create(ConsumerEntry *entry)
{
	InboxWorker *worker = MemoryContextAllocZero(TopMemoryContext,
												 sizeof(InboxWorker));

	worker->entry = entry;
	worker->leave = leave;
	consumers_load(entry, &worker->status);
	consumers_set_state(&worker->status, CONSUMER_STARTING);
	worker->status.started_at = GetCurrentTimestamp();
	worker->began_at = monotonic_now();
	worker->status.lag = -1;
	worker->status.partitions = 0;
	worker->report_at = DT_NOEND;
	worker->unreached = true;
	worker->patience_ms = 1000;
	worker->suspects_at_once = 1;
	culprit_suspect(worker);	/* what the one before had under way */
	consumers_show(entry, &worker->status);
	return worker;
}

/*
 * Entry point of a consumer process; the argument is the number of its entry.
 */
void
outbox_consumer_main(Datum arg)
{
	ConsumerEntry *entry;

	worker_setup_signals();
	entry = consumers_attach(DatumGetInt32(arg));
	if (entry == NULL)
		proc_exit(0);
	session_connect(entry->database);
	MemoryContextSwitchTo(TopMemoryContext);
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "outbox consumer");
	(void) set_config_option("application_name", entry->name, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
	inbox_transaction_configure();
	if (entry->worker == SCOUT_WORKER)
		maintenance_scout(entry);

	the_worker = worker_create(entry);
	before_shmem_exit(worker_exit, (Datum) 0);
	redelivery_queue_create(the_worker);
	consumer_startup_wait(the_worker);
	run(the_worker);
}
