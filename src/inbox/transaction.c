/*-------------------------------------------------------------------------
 *
 * transaction.c
 *	  A consumer's transactions, and how much each takes.
 *
 * After a serialization failure or a deadlock a transaction begins anew.  It
 * is nobody's fault, so it does not count as an attempt.  Only when a message
 * that has a transaction for itself fails so again and again, the failure
 * counts as the handler's.  Any other error of the transaction itself ends the
 * process, and the next one begins where the last transaction that committed
 * ended.
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

#include "inbox/transaction.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/worker.h"
#include "inbox/waiting.h"

/* So often a message's own transaction begins anew before a failure counts. */
#define MAX_TRIES 20

/*
 * The limit grows by this share of the messages that were taken, so that it
 * doubles within twenty or so transactions that take as much as they may.
 */
#define GROWTH (1.0 / 32)

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
 * So many messages the next transaction may take: at least one.
 */
int
inbox_transaction_limit(const InboxWorker *worker)
{
	return (int) worker->transaction_limit;
}

/* Notes that a transaction has got through. */
static void
raise_limit(InboxWorker *worker, int taken)
{
	worker->transaction_limit = Min(worker->transaction_limit + taken * GROWTH,
									worker->subscription->batch_size);
}

/* Notes that others were in the way of a transaction. */
static void
lower_limit(InboxWorker *worker, int taken)
{
	/* To take less than one does not help. */
	if (taken > 1)
		worker->transaction_limit =
			Max(Min(worker->transaction_limit, taken) / 2, 1);
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
	CommitTransactionCommand();
	handler_clean_up_after_transaction();
	waiting_settle(worker, true);
	raise_limit(worker, taken);
}

/*
 * Somebody else has moved a position, such as inbox.seek(): begins again where
 * it is now.
 */
static void
give_up_partitions(InboxWorker *worker)
{
	MemoryContextSwitchTo(TopMemoryContext);
	FlushErrorState();
	AbortCurrentTransaction();
	ereport(LOG,
			(errmsg("consumer of subscription \"%s\" begins again where somebody else has moved it to",
					worker->subscription->name)));
	worker_restart(worker);
}

/*
 * An error was raised in a transaction that took so many messages: ends it.
 * Returns when it can simply begin anew, with as many as the limit now allows;
 * else raises the error again.  Counts in tries when it had only one to take.
 */
void
inbox_transaction_abort(InboxWorker *worker, MemoryContext context,
						int taken, int *tries)
{
	int			sqlstate = geterrcode();

	if (sqlstate == ERRCODE_OBJECT_IN_USE)
		give_up_partitions(worker);
	if (sqlstate != ERRCODE_T_R_SERIALIZATION_FAILURE &&
		sqlstate != ERRCODE_T_R_DEADLOCK_DETECTED)
		PG_RE_THROW();
	MemoryContextSwitchTo(context);
	FlushErrorState();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(context);
	handler_clean_up_after_transaction();
	waiting_settle(worker, false);
	lower_limit(worker, taken);
	worker_check(worker);

	/* At once, but not for ever at once. */
	if (taken <= 1 && ++*tries > MAX_TRIES)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 100, PG_WAIT_EXTENSION);
		worker_check(worker);
	}
}
