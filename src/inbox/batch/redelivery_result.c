/*-------------------------------------------------------------------------
 *
 * redelivery_result.c
 *	  What becomes of messages that were tried again, and of their keys.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/redelivery_result.h"

#include "utils/hsearch.h"

#include "inbox/batch/batch_table.h"
#include "inbox/batch/crash_suspects.h"
#include "inbox/batch/failure_report.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/unprocessed_rows.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_wait.h"
#include "registry/consumers.h"

/*
 * Stores what became of a message; returns whether the next one of its key may
 * run.
 */
bool
retry_take_result(Round *round, InboxMessage *message, bool succeeded)
{
	if (!unprocessed_update(round->worker, message))
		return true;
	if (succeeded || !message->nulls[MESSAGE_NEXT_ATTEMPT_AT])
		return succeeded;
	failure_report_failed(round->worker, message);
	if (round->worker->subscription->stops)
	{
		batch_table_stop(round->worker, message, &round->disturbed);
		round->stopped = true;
	}
	return !round->stopped;
}

/*
 * Notes what a key has to do next, when its next message is that one.
 */
void
retry_set_next(Round *round, const Waiting *waiting, const InboxMessage *message,
			   Outcome *outcome)
{
	outcome->first_offset = retry_offset(message);
	outcome->due = redelivery_queue_until(round->worker, message);
	outcome->old = waiting_is_old(round->worker, waiting->partition, message);
	outcome->suspect = charge_is_due(round->worker, waiting->partition, message);
}

/*
 * Notes what a round means, after it has committed.
 */
void
retry_apply(Round *round)
{
	InboxWorker *worker = round->worker;

	for (int i = 0; i < round->nkeys; i++)
	{
		Outcome    *outcome = &round->outcomes[i];
		Waiting    *waiting = round->keys[i];

		waiting->first_offset = outcome->first_offset;
		waiting->due = outcome->due;
		waiting->suspect = outcome->suspect;
		waiting->old = outcome->old;
		if (outcome->finished)
			(void) hash_search(worker->waiting, &outcome->key, HASH_REMOVE, NULL);
	}
	for (int i = 0; i < round->nmoves; i++)
		round->moves[i].partition->place = round->moves[i].place;
	consumers_progress(worker->entry);
	if (round->stopped || round->outdated)
		worker_restart(worker);
}
