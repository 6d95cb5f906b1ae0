/*-------------------------------------------------------------------------
 *
 * worker_report.c
 *	  What a worker shows of itself, and what its log says when it waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/process/worker_report.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_lag.h"
#include "registry/consumer_entry.h"
#include "registry/consumers.h"

#define MANY_PARTITIONS 100		/* whose lag is not counted more often */
#define REASON_MS 60000			/* the library repeats errors more often */

/*
 * Counts what is still to be read, unless that was just done and takes long.
 */
static void
count_lag(InboxWorker *worker, TimestampTz now)
{
	worker->uncounted = worker->npartitions > MANY_PARTITIONS &&
		worker->counted_at != 0 &&
		!TimestampDifferenceExceeds(worker->counted_at, now, SHOW_INTERVAL_MS);
	if (worker->uncounted)
		return;
	worker->counted_at = now;
	worker->status.lag = worker->consumer ? partitions_lag(worker) : -1;
	worker->status.read_until = 0;
	for (int i = 0; i < worker->npartitions; i++)
		worker->status.read_until = Max(worker->status.read_until,
										worker->partitions[i]->read_until);
}

/*
 * Publishes the status, unless it was just published.
 */
static void
show(InboxWorker *worker, bool at_once)
{
	TimestampTz now = monotonic_now();

	if (!at_once &&
		!TimestampDifferenceExceeds(worker->shown_at, now, SHOW_INTERVAL_MS))
		return;
	worker->shown_at = now;
	count_lag(worker, now);
	consumers_show(worker->entry, &worker->status);
}

/*
 * Publishes the status, unless it was just published.
 */
void
worker_show_sometimes(InboxWorker *worker)
{
	show(worker, false);
}

/*
 * Publishes the status now.
 */
void
worker_show(InboxWorker *worker)
{
	show(worker, true);
}

/*
 * The last error, for stat_subscription.
 */
void
health_note(InboxWorker *worker, const char *message)
{
	worker->status.error_at = GetCurrentTimestamp();
	if (message != worker->status.error)
		strlcpy(worker->status.error, message, CONSUMER_MESSAGE_LEN);
}

/*
 * Shows a state.
 */
void
health_set_state(InboxWorker *worker, ConsumerState state)
{
	consumers_set_state(&worker->status, state);
	worker_show(worker);
}

/*
 * Shows a state and why.
 */
void
health_show(InboxWorker *worker, ConsumerState state, const char *message)
{
	health_note(worker, message);
	health_set_state(worker, state);
}

/*
 * Something is in the way: shows the state and why, and logs it when it
 * begins.
 */
void
health_problem(InboxWorker *worker, ConsumerState state, const char *message)
{
	bool		is_new = worker->status.state != state ||
	strcmp(worker->status.error, message) != 0;

	health_show(worker, state, message);
	if (is_new)
		ereport(LOG,
				(errmsg("consumer of subscription \"%s\" waits: %s",
						worker->entry->name, worker->status.error)));
}

/*
 * Something is to be known, but nothing is in the way: shows and logs it.
 */
void
health_tell(InboxWorker *worker, const char *message)
{
	health_note(worker, message);
	worker_show(worker);
	ereport(LOG,
			(errmsg("consumer of subscription \"%s\": %s",
					worker->entry->name, message)));
}

/*
 * Topics could not be looked up.  When no broker answered, the library may have
 * told better why.
 */
void
health_lookup_failed(InboxWorker *worker, const char *message, bool unreached)
{
	worker->unreached = unreached;
	if (unreached && worker->reason_at != 0 &&
		!TimestampDifferenceExceeds(worker->reason_at, monotonic_now(), REASON_MS))
		message = worker->status.error;
	health_problem(worker, CONSUMER_WAITING_KAFKA, message);
}

/*
 * Something has come of a partition.
 */
void
health_sign(Partition *partition)
{
	if (partition->health != PARTITION_ASKED)
		return;
	partition->in_vain = 0;
	partition->health = PARTITION_READ;
	partition->refused = false;
}

/*
 * Notes what could not be taken over, since somebody else has locked it; "" for
 * nothing.
 */
void
health_locked(InboxWorker *worker, const char *message)
{
	if (message[0] != '\0' && strcmp(worker->locked, message) != 0 &&
		worker->status.state == CONSUMER_WAITING_LOCK)
		health_problem(worker, CONSUMER_WAITING_LOCK, message);
	strlcpy(worker->locked, message, sizeof(worker->locked));
}
