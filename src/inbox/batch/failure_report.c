/*-------------------------------------------------------------------------
 *
 * failure_report.c
 *	  Tells the server's log what became of messages that nobody looks after.
 *
 * A message that has failed for good is logged when its transaction has
 * committed: the first at once, then one line in REPORT_MS, which says how many
 * there were.  The text of the error is that of inbox.message without its detail,
 * which may have data in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/failure_report.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

#define REPORT_MS 10000

/*
 * A message has failed for good, in the transaction that is running.
 */
void
failure_report_failed(InboxWorker *worker, const InboxMessage *message)
{
	FailureReport *report = &worker->report;

	report->pending++;
	strlcpy(report->event_id,
			TextDatumGetCString(message->values[MESSAGE_EVENT_ID]),
			sizeof(report->event_id));
	strlcpy(report->sqlstate,
			TextDatumGetCString(message->values[MESSAGE_ERROR_SQLSTATE]),
			sizeof(report->sqlstate));
}

/* Logs what has failed since the last line. */
static void
log_failures(InboxWorker *worker, TimestampTz now)
{
	FailureReport *report = &worker->report;

	if (report->count == 1)
		ereport(LOG,
				(errmsg("message \"%s\" of subscription \"%s\" has failed for good: SQLSTATE %s",
						report->event_id, worker->subscription->name,
						report->sqlstate),
				 errhint("See inbox.message; inbox.retry() and inbox.discard() decide what becomes of it.")));
	else
		ereport(LOG,
				(errmsg("%d messages of subscription \"%s\" have failed for good: SQLSTATE %s of the last, \"%s\"",
						report->count, worker->subscription->name,
						report->sqlstate, report->event_id),
				 errhint("See inbox.message; inbox.retry() and inbox.discard() decide what becomes of them.")));
	report->count = 0;
	report->logged_at = now;
}

/*
 * The transaction has ended: logs what has failed in it, if it committed, unless
 * that was done a moment ago.
 */
void
failure_report_settle(InboxWorker *worker, bool committed)
{
	FailureReport *report = &worker->report;

	if (committed)
		report->count += report->pending;
	report->pending = 0;
	failure_report_check(worker);
}

/*
 * Logs what could not be logged at once, when it is time.
 */
void
failure_report_check(InboxWorker *worker)
{
	FailureReport *report = &worker->report;
	TimestampTz now = monotonic_now();

	if (report->count > 0 &&
		(report->logged_at == 0 ||
		 TimestampDifferenceExceeds(report->logged_at, now, REPORT_MS)))
		log_failures(worker, now);
}

/*
 * When failure_report_check() has something to do, by monotonic_now(); DT_NOEND if not.
 */
TimestampTz
failure_report_due(const InboxWorker *worker)
{
	if (worker->report.count == 0)
		return DT_NOEND;
	return TimestampTzPlusMilliseconds(worker->report.logged_at, REPORT_MS + 1);
}

/*
 * The process ends: logs what is left.
 */
void
failure_report_end(InboxWorker *worker)
{
	if (worker->report.count > 0 && worker->subscription)
		log_failures(worker, monotonic_now());
}
