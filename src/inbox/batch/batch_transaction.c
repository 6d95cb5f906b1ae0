/*-------------------------------------------------------------------------
 *
 * batch_transaction.c
 *	  A consumer's transactions, and how much each takes.
 *
 * After a serialization failure or a deadlock a transaction begins anew.  It
 * is nobody's fault, so it does not count as an attempt.  Only when a message
 * that has a transaction for itself fails so again and again, the failure
 * counts as the handler's.  So does an error of the commit, which may be that
 * of a foreign server: of a transaction with several messages, each gets one of
 * its own then; see crash_suspects.c.  Any other error of the transaction
 * itself ends the process, and the next one begins where the last transaction
 * that committed ended.
 *
 * A transaction takes no longer than batch_time, but for a single call of the
 * handler: it ends with what is done, and the next one takes as many messages as
 * there was time for.  So locks, snapshots and old WAL are held for a second or
 * so, however slow the handler is.
 *
 * The more a transaction takes, the more rows it has locked, and the likelier
 * it is to meet another worker or an application that wants them in another
 * order.  The risk grows far faster than the number of messages: with the
 * third or fourth power of it where rows are picked at random.  What is saved
 * by taking more grows slower and slower.  So after each failure transactions
 * take half as much, and with success slowly more again, by a fixed share of
 * what was taken.  Their size settles where about one in so many fails, which
 * costs little, wherever that is for the handler at hand.
 *
 * A deadlock is only found by a process that has waited deadlock_timeout for a
 * lock, usually a second, in which neither side gets anything done.  Workers
 * look sooner.  That makes them more often the one that gives way, too, and
 * for them it is cheap.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/batch_transaction.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/batch/failure_report.h"
#include "inbox/batch/handler_backoff.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/transaction_limit.h"
#include "inbox/batch/under_way.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_wait.h"

/* So often a message's own transaction begins anew before a failure counts. */
#define MAX_TRIES 20

/* Between two attempts to store a message that is too much. */
#define STORE_PAUSE_MS 200

/*
 * Makes this process look for deadlocks sooner.  Call it before any role is
 * taken on, since not every one may change that.
 */
void
inbox_transaction_configure(void)
{
	char		timeout[32];

	if (DeadlockTimeout <= DEADLOCK_TIMEOUT_MS)
		return;
	snprintf(timeout, sizeof(timeout), "%dms", DEADLOCK_TIMEOUT_MS);
	(void) set_config_option("deadlock_timeout", timeout, PGC_SUSET,
							 PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
}

/*
 * Is a failure met by beginning anew?  "tries" is the number of transactions
 * that inbox_transaction_abort() has counted for the message.
 */
bool
inbox_transaction_begins_anew(const HandlerFailure *failure, int tries)
{
	return failure->transient && tries < MAX_TRIES;
}

/*
 * Begins a transaction of the kind that the subscription wants, in context.
 */
void
inbox_transaction_begin(InboxWorker *worker, MemoryContext context)
{
	worker->transaction_began = monotonic_now();
	handler_backoff_begin(worker);
	worker_begin();
	XactIsoLevel = worker->subscription->xact_isolation;
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
}

/*
 * Ends it.  The handler ran for so many messages.
 */
void
inbox_transaction_commit(InboxWorker *worker, int taken)
{
	handler_clean_up_in_transaction();
	PopActiveSnapshot();
	SPI_finish();
	worker->phase = PHASE_COMMIT;
	CommitTransactionCommand();
	worker->phase = PHASE_OWN;
	handler_clean_up_after_transaction();
	redelivery_queue_settle(worker, true);
	failure_report_settle(worker, true);
	culprit_clear(worker);
	handler_backoff_end(worker, inbox_transaction_is_over(worker));
	inbox_transaction_adjust_limit(worker, taken);
}

/*
 * Somebody else has changed what the worker stands on, such as inbox.seek():
 * begins again where it is now.  What was under way is suspect: perhaps its
 * handler did it, and would do so for ever.
 */
static void
begin_again(InboxWorker *worker)
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopMemoryContext);
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	ereport(LOG,
			(errmsg("consumer of subscription \"%s\" begins again: %s",
					worker->subscription->name, error->message)));
	culprit_suspect(worker);
	charge_note(worker, NULL);
	worker_restart(worker);
}

/* Ends a transaction, which comes to nothing. */
static void
undo(InboxWorker *worker, MemoryContext context)
{
	AbortCurrentTransaction();
	MemoryContextSwitchTo(context);
	handler_clean_up_after_transaction();
	redelivery_queue_settle(worker, false);
	failure_report_settle(worker, false);
}

/*
 * A transaction that took so many messages could not store them, since they are too
 * much: ends it, and the next one takes fewer.  Returns true when it had only one,
 * as often as the subscription tries a message, which is counted in tries: memory may
 * have lacked for a moment.  Then failure, in context, tells why.
 */
bool
inbox_transaction_take_less(InboxWorker *worker, MemoryContext context,
							int taken, int *tries, HandlerFailure *failure)
{
	bool		final = taken <= 1 && ++*tries >= worker->subscription->max_attempts;

	worker->phase = PHASE_OWN;
	MemoryContextSwitchTo(context);
	if (final)
		handler_keep_failure(failure);
	else
		FlushErrorState();
	undo(worker, context);
	culprit_clear(worker);
	inbox_transaction_lower_limit(worker, taken);
	if (taken <= 1 && !final)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 STORE_PAUSE_MS, PG_WAIT_EXTENSION);
	worker_check(worker);
	return final;
}

/*
 * An error was raised in a transaction that took so many messages: ends it.
 *
 * ABORTED_ANEW: it was nobody's fault; it can simply begin anew, with as many as
 * the limit now allows.  Counts in tries when it had only one to take.
 *
 * ABORTED_AT_COMMIT: what the handler did could not be committed, for the reason
 * in failure, which lives in context, or again and again not, with one message.
 * Where failure is NULL no handler did anything.
 *
 * Any other error is raised again.
 */
AbortReason
inbox_transaction_abort(InboxWorker *worker, MemoryContext context,
						int taken, int *tries, HandlerFailure *failure)
{
	int			sqlstate = geterrcode();
	bool		transient = handler_error_is_transient(sqlstate);
	bool		refused = transient ? taken <= 1 && *tries >= MAX_TRIES :
	worker->phase == PHASE_COMMIT;

	/* Without a message that was handled, none is to blame. */
	refused &= failure != NULL && worker->entry->under_way.n > 0;
	worker->phase = PHASE_OWN;
	if (sqlstate == ERRCODE_OBJECT_IN_USE && !refused)
		begin_again(worker);
	if (!transient && !refused)
	{
		culprit_clear(worker);
		PG_RE_THROW();
	}
	MemoryContextSwitchTo(context);
	if (refused)
		handler_keep_failure(failure);
	else
		FlushErrorState();
	undo(worker, context);
	if (refused)
	{
		handler_backoff_begin(worker);
		handler_backoff_failed(worker, failure);
		handler_backoff_end(worker, inbox_transaction_is_over(worker));
		return ABORTED_AT_COMMIT;
	}
	inbox_transaction_lower_limit(worker, taken);
	worker->phase = PHASE_ANEW;
	worker_check(worker);

	/* At once, but not for ever at once. */
	if (taken <= 1 && ++*tries > MAX_TRIES)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, PG_WAIT_EXTENSION);
		worker_check(worker);
	}
	worker->phase = PHASE_OWN;
	return ABORTED_ANEW;
}
