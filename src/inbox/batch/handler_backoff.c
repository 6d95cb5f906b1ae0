/*-------------------------------------------------------------------------
 *
 * handler_backoff.c
 *	  A pause while the handler takes long and comes to nothing.
 *
 * What a handler depends on may be away, so that each call takes until a time
 * limit and fails.  To call it for message after message would use up their
 * attempts, and burden what may be about to recover.
 *
 * A transaction is slow when it took batch_time or longer and no call in it
 * succeeded.  After the first one a turn of the worker's loop goes no further in
 * what it is at, so it has two of them at most: one with messages that wait to
 * be tried again, and one with new messages.  That is for a message that is slow
 * by itself: the others show that the handler works.  A turn with a slow
 * transaction and without a success ends with a pause, the first one with 1 s,
 * each further one with twice as much, up to a minute.  Meanwhile nothing is
 * fetched and nothing is tried.
 *
 * The first success ends that, and so does a turn in which nothing is slow, or
 * is left to be tried.  Whatever begins the process anew ends it as well: who
 * calls inbox.retry(), say, wants to see something happen.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/handler_backoff.h"

#include "utils/elog.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"
#include "registry/consumer_entry.h"

#define FIRST_PAUSE_MS 1000
#define LONGEST_PAUSE_MS 60000

/*
 * A transaction begins.
 */
void
handler_backoff_begin(InboxWorker *worker)
{
	worker->pace.succeeded = worker->pace.failed = false;
}

/*
 * A call of the handler in it has succeeded.
 */
void
handler_backoff_succeeded(InboxWorker *worker)
{
	worker->pace.succeeded = true;
}

/*
 * A call of the handler in it has failed.
 */
void
handler_backoff_failed(InboxWorker *worker, const HandlerFailure *failure)
{
	Pace	   *pace = &worker->pace;
	char	   *detail;

	pace->failed = true;
	pace->sqlstate = failure->sqlstate;
	strlcpy(pace->error, failure->message, sizeof(pace->error));
	/* It may quote data; see handler_keep_failure(). */
	detail = strstr(pace->error, "\nDETAIL:  ");
	if (detail)
		*detail = '\0';
}

/* The handler is as usual. */
static void
go_on(InboxWorker *worker)
{
	Pace	   *pace = &worker->pace;

	pace->slow = false;
	if (pace->pause_ms == 0)
		return;
	pace->pause_ms = 0;
	ereport(LOG,
			(errmsg("consumer of subscription \"%s\" goes on",
					worker->entry->name)));
}

/*
 * The transaction has committed, or what the handler did could not be; slow says
 * whether it took batch_time or longer.
 */
void
handler_backoff_end(InboxWorker *worker, bool slow)
{
	Pace	   *pace = &worker->pace;

	if (!pace->succeeded && !pace->failed)
		return;
	pace->tried = true;
	if (pace->succeeded)
		go_on(worker);
	else if (slow)
	{
		pace->slow = true;
		pace->nslow++;
	}
}

/* Begins a pause, longer than the one before. */
static void
begin_pause(InboxWorker *worker)
{
	Pace	   *pace = &worker->pace;
	bool		is_new = pace->pause_ms == 0;
	char		message[CONSUMER_MESSAGE_LEN];

	pace->pause_ms = is_new ? FIRST_PAUSE_MS :
		Min(pace->pause_ms * 2, LONGEST_PAUSE_MS);
	pace->until = TimestampTzPlusMilliseconds(monotonic_now(), pace->pause_ms);
	snprintf(message, sizeof(message),
			 "the handler takes long and fails, so it is called again in %d s: %s",
			 pace->pause_ms / 1000, pace->error);
	health_show(worker, CONSUMER_BACKING_OFF, message);
	if (is_new)
		ereport(LOG,
				(errmsg("consumer of subscription \"%s\" backs off: its handler takes long and fails, with SQLSTATE %s",
						worker->entry->name, unpack_sql_state(pace->sqlstate))));
}

/*
 * A turn ends, in which messages that are due and new ones had their chance.
 * Begins a pause if nothing came of it.
 */
void
handler_backoff_rest(InboxWorker *worker)
{
	Pace	   *pace = &worker->pace;

	if (pace->slow)
		begin_pause(worker);
	else if (pace->tried || hash_get_num_entries(worker->waiting) == 0)
		go_on(worker);
	pace->slow = pace->tried = false;
}

/*
 * Is the handler to be called as rarely as may be, since it was slow and failed
 * the last time?
 */
bool
handler_backoff_is_backing_off(const InboxWorker *worker)
{
	return worker->pace.pause_ms > 0;
}

/*
 * Is it not to be called at all now?
 */
bool
handler_backoff_is_pausing(const InboxWorker *worker)
{
	return handler_backoff_is_backing_off(worker) && worker->pace.until > monotonic_now();
}

/*
 * When a pause ends, by monotonic_now(); DT_NOBEGIN when there is none.
 */
TimestampTz
handler_backoff_due(const InboxWorker *worker)
{
	return handler_backoff_is_pausing(worker) ? worker->pace.until : DT_NOBEGIN;
}
