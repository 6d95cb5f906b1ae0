/*-------------------------------------------------------------------------
 *
 * redelivery.c
 *	  Tries messages again that wait in inbox.message.
 *
 * When the pause of a key is over, its messages run in order, each in a
 * subtransaction of its own, until one fails.  They are locked first: who
 * discards or retries one meanwhile waits until it is known what became of it.
 *
 * A round has locked messages when it comes to the positions.
 * inbox.unsubscribe() locks these first.  So the round does not wait for it
 * but is undone, and the next one waits before it locks anything.  It does the
 * same when somebody else has locked messages, and does not end soon.
 *
 * A suspect (see crash_suspects.c) runs alone, and its attempt is counted and
 * on disk before it begins.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/redelivery.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "inbox/batch/batch_table.h"
#include "inbox/batch/batch_transaction.h"
#include "inbox/batch/crash_suspects.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/position_move.h"
#include "inbox/batch/position_table.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/redelivery_read.h"
#include "inbox/batch/redelivery_result.h"
#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/repeated_messages.h"
#include "inbox/batch/suspect_attempt.h"
#include "inbox/batch/transaction_limit.h"
#include "inbox/batch/under_way.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/message/message_identity.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_wait.h"
#include "inbox/subscription/subscription.h"
#include "inbox/table/short_wait.h"

#define ROUND_KEYS 100			/* that one transaction looks at */
#define KEY_MESSAGES 100		/* of each of them */

/* What became of the transaction of a round. */
typedef enum RoundResult
{
	ROUND_COMMITTED,
	ROUND_ANEW,					/* it shall begin anew */
	ROUND_REFUSED				/* it could not be committed */
} RoundResult;

/* Counts a message of the partition as processed. */
static void
count_processed(Round *round, Partition *partition, int processed)
{
	for (int i = 0; i < round->nmoves; i++)
		if (round->moves[i].partition == partition)
		{
			round->moves[i].processed += processed;
			return;
		}
	memset(&round->moves[round->nmoves], 0, sizeof(Move));
	round->moves[round->nmoves].partition = partition;
	round->moves[round->nmoves].next_offset = partition->stored;
	round->moves[round->nmoves++].processed = processed;
}

/*
 * Tells a message by the present rules.  Is it one for the handler, or one with a
 * problem?
 */
static bool
is_to_handle(const Subscription *subscription, InboxMessage *message)
{
	bool		had_type = !message->nulls[MESSAGE_EVENT_TYPE];

	if (message->problem != NULL)
		return true;
	return message_identity_set_again(message, &subscription->identity) &&
		(had_type || repeated_messages_is_wanted(subscription, message) || message->problem);
}

/*
 * Tries one message; returns whether the next one of its key may run.
 */
static bool
try_message(Round *round, InboxMessage *message)
{
	HandlerFailure failure;
	bool		succeeded;
	int			n = 1;

	round->taken++;
	culprit_under_way(round->worker, message);
	if (round->charged)
		suspect_attempt_take_back(message);

	/* One that turns out to repeat another, or not to be wanted, is done. */
	succeeded = !is_to_handle(round->worker->subscription, message) ||
		(message->problem == NULL &&
		 handler_run(&round->handler, &message, &n, &failure));
	if (succeeded)
	{
		message_set_text(message, MESSAGE_STATUS, "processed");
		message_set(message, MESSAGE_PROCESSED_AT,
					TimestampTzGetDatum(GetCurrentTimestamp()));
		message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = true;
	}
	else if (message->problem != NULL)
		batch_table_reject(message);
	else if (inbox_transaction_begins_anew(&failure, round->tries))
		ereport(ERROR,
				(errcode(failure.sqlstate),
				 errmsg_internal("%s", failure.message)));
	else
		batch_table_fail(round->worker, message, &failure);
	return retry_take_result(round, message, succeeded);
}

/* May the round take one more message? */
static bool
has_room(const Round *round)
{
	return !round->stopped && round->taken < round->limit &&
		(round->taken == 0 || !inbox_transaction_is_over(round->worker));
}

/* Tries the messages of one key, as many as the round may still take. */
static void
try_key(Round *round, Waiting *waiting, Outcome *outcome)
{
	int			limit = Min(round->limit - round->taken, KEY_MESSAGES);
	int			n;
	InboxMessage *messages = retry_read(round, waiting, limit, &n);
	int			processed = 0;
	int			i = 0;

	if (n == 0 || retry_offset(&messages[0]) != waiting->first_offset)
	{
		round->outdated = true;
		return;
	}
	for (; i < Min(n, limit) && has_room(round); i++)
	{
		/* One that may end the process gets a transaction of its own. */
		if (!round->charged &&
			charge_is_due(round->worker, waiting->partition, &messages[i]))
			break;
		if (!try_message(round, &messages[i]))
			break;
		if (!messages[i].nulls[MESSAGE_PROCESSED_AT])
			processed++;
	}
	count_processed(round, waiting->partition, processed);
	outcome->finished = i == n;
	if (i < n)
		retry_set_next(round, waiting, &messages[i], outcome);
}

/* Lets each key of a round try its messages. */
static void
try_keys(Round *round)
{
	for (int i = 0; i < round->nkeys; i++)
	{
		Waiting    *waiting = round->keys[i];
		Outcome    *outcome = &round->outcomes[i];

		outcome->key = waiting->key;
		outcome->finished = false;
		outcome->suspect = waiting->suspect;
		outcome->old = waiting->old;
		outcome->first_offset = waiting->first_offset;
		outcome->due = waiting->due;
		if (has_room(round))
			try_key(round, waiting, outcome);
	}
}

/* Runs the transaction of a round once. */
static RoundResult
try_round(Round *round)
{
	InboxWorker *worker = round->worker;
	MemoryContext context = CurrentMemoryContext;
	int			tries = round->tries;
	volatile RoundResult outcome = ROUND_COMMITTED;

	if (round->disturbed)
		position_wait(worker);
	round->disturbed = false;
	round->nmoves = 0;
	round->taken = 0;
	round->stopped = round->outdated = false;
	PG_TRY();
	{
		inbox_transaction_begin(worker, context);
		handler_find(&round->handler, worker);
		try_keys(round);
		round->disturbed = !position_lock(worker, round->moves, round->nmoves);
		if (round->disturbed)
			short_wait_raise();
		position_move(worker, round->moves, round->nmoves, &round->disturbed);
		inbox_transaction_commit(worker, round->taken);
	}
	PG_CATCH();
	{
		outcome = inbox_transaction_abort(worker, context,
										  Max(round->nkeys, round->taken),
										  &round->tries, &round->failure) == ABORTED_ANEW ?
			ROUND_ANEW : ROUND_REFUSED;
		/* Whoever has locked something, it is not the message's fault. */
		if (round->disturbed)
			round->tries = tries;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return outcome;
}

/*
 * Makes a round over some keys, in the current memory context.  Returns how
 * many of them it got to: fewer when a transaction may not take so much.
 */
static int
run_round(InboxWorker *worker, Waiting **keys, int nkeys, bool charged)
{
	Round	   *round = palloc0(sizeof(Round));
	RoundResult result;

	round->worker = worker;
	round->keys = keys;
	round->charged = charged;
	round->outcomes = palloc0(sizeof(Outcome) * nkeys);
	round->moves = palloc(sizeof(Move) * nkeys);
	do
	{
		round->limit = charged ? 1 : inbox_transaction_limit(worker);
		round->nkeys = Min(nkeys, round->limit);
		result = try_round(round);
	} while (result == ROUND_ANEW);

	if (result == ROUND_COMMITTED)
		retry_apply(round);
	else if (charged)
		suspect_attempt_fail_at_commit(round);
	else
	{
		culprit_suspect(worker);
		for (int i = 0; i < round->nkeys; i++)
			keys[i]->suspect = true;
	}
	return round->nkeys;
}

/* Runs the first message of a key, which is charged. */
static void
run_charged(InboxWorker *worker, Waiting **waiting)
{
	charge_note(worker, *waiting);
	(void) run_round(worker, waiting, 1, true);
	charge_note(worker, NULL);
}

/*
 * Runs a message whose attempt was counted, and is on disk.
 */
void
redelivery_run_charged(InboxWorker *worker, InboxMessage *message)
{
	Waiting    *waiting = redelivery_queue_find(worker, message);

	if (waiting != NULL &&
		waiting->first_offset == DatumGetInt64(message->values[MESSAGE_OFFSET]))
		run_charged(worker, &waiting);
}

/*
 * Tries messages whose pause is over, until a transaction is slow and nothing
 * comes of it.
 */
void
redelivery_run(InboxWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox retry",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Waiting    *keys[ROUND_KEYS];
	Waiting    *plain[ROUND_KEYS];
	int			n = redelivery_queue_collect_due(worker, keys, ROUND_KEYS);
	int			nplain = 0;
	int			nslow = worker->pace.nslow;

	for (int i = 0; i < n && worker->pace.nslow == nslow; i++)
	{
		Charge		charge = keys[i]->suspect ?
		suspect_attempt_first(worker, keys[i]) : CHARGE_NONE;

		if (charge == CHARGE_NONE)
			plain[nplain++] = keys[i];
		if (charge != CHARGE_RUNS)
			continue;
		run_charged(worker, &keys[i]);
		culprit_acquit(worker);
		worker_check(worker);
	}
	for (int first = 0; first < nplain && worker->pace.nslow == nslow;)
		first += run_round(worker, &plain[first], nplain - first, false);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
