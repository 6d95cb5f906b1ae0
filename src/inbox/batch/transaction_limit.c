/*-------------------------------------------------------------------------
 *
 * transaction_limit.c
 *	  How many messages a transaction takes, and how long it may last.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/transaction_limit.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/process/inbox_worker.h"

/*
 * The limit grows by this share of the messages that were taken, so that it
 * doubles within twenty or so transactions that take as much as they may.
 */
#define GROWTH (1.0 / 32)

/*
 * So many messages the next transaction may take: at least one.
 */
int
inbox_transaction_limit(const InboxWorker *worker)
{
	return (int) worker->transaction_limit;
}

/*
 * Notes that others were in the way of a transaction.
 */
void
inbox_transaction_lower_limit(InboxWorker *worker, int taken)
{
	/* To take less than one does not help. */
	if (taken > 1)
		worker->transaction_limit =
			Max(Min(worker->transaction_limit, taken) / 2, 1);
}

/* How long the transaction has taken so far, in ms. */
static int64
elapsed_ms(const InboxWorker *worker)
{
	return (monotonic_now() - worker->transaction_began) / 1000;
}

/*
 * Has the transaction taken as long as it may?  Then it ends with what is done.
 */
bool
inbox_transaction_is_over(const InboxWorker *worker)
{
	return elapsed_ms(worker) >= worker->subscription->batch_time_ms;
}

/*
 * Notes that a transaction has got through: the next one may take more, or as
 * many as there was time for.
 */
void
inbox_transaction_adjust_limit(InboxWorker *worker, int taken)
{
	double		limit = Min(worker->transaction_limit + taken * GROWTH,
							worker->subscription->batch_size);
	int64		elapsed = elapsed_ms(worker);

	if (elapsed > worker->subscription->batch_time_ms && taken > 0)
		limit = Min(limit, (double) taken * worker->subscription->batch_time_ms / elapsed);
	worker->transaction_limit = Max(limit, 1);
}
