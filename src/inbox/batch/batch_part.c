/*-------------------------------------------------------------------------
 *
 * batch_part.c
 *	  How much of a batch the next transaction takes.
 *
 * Messages that nobody suspects are taken together, as many as the limit of
 * batch_transaction.c allows.  A suspect (see crash_suspects.c) has a
 * transaction for itself, but most suspects may turn out to be repeated, where
 * the subscription was moved back before the server crashed.  That shows in
 * the transaction.  So it takes several suspects, and ends behind the first
 * one that is to be handled; twice as many each time that there was none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/batch_part.h"

#include "inbox/batch/crash_suspects.h"
#include "inbox/batch/message_batch.h"
#include "inbox/batch/transaction_limit.h"
#include "inbox/process/inbox_worker.h"

/* Must the handler have that message alone, if it has it at all? */
static bool
is_suspect(Batch *batch, int i)
{
	return crash_suspects_is_suspect(batch->worker, batch->partitions[i],
									 &batch->messages[i], false);
}

/*
 * What the next transaction takes of a batch, from a message on, as far as the
 * limit allows: suspects, or all up to the next one.  Of suspects more at a time
 * the longer none of them is to be handled.
 */
Batch
batch_part_take(Batch *batch, int first)
{
	InboxWorker *worker = batch->worker;
	int			limit = Min(inbox_transaction_limit(worker), batch->n - first);
	Batch		part = *batch;

	part.charge = is_suspect(batch, first);
	if (part.charge)
		limit = Min(limit, worker->suspects_at_once);
	for (part.n = 1; part.n < limit; part.n++)
		if (is_suspect(batch, first + part.n) != part.charge)
			break;
	part.messages += first;
	part.partitions += first;
	part.records += first;
	part.fates += first;
	part.items += first;
	part.received += first;
	part.conflicts += first;
	part.replaces += first;
	part.done += first;
	return part;
}

/*
 * The transaction has committed: its messages are suspect no more, unless they
 * are charged.
 */
void
batch_part_committed(Batch *batch)
{
	InboxWorker *worker = batch->worker;

	for (int i = 0; i < batch->end; i++)
		crash_suspects_passed(worker, batch->partitions[i], &batch->messages[i],
							  batch->fates[i] == FATE_UNWANTED ||
							  batch->fates[i] == FATE_REPEATED);
	if (batch->charge && !batch->charged)
		worker->suspects_at_once = Min(worker->suspects_at_once * 2,
									   worker->subscription->batch_size);
	else
		worker->suspects_at_once = 1;
}
