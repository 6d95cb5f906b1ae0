/*-------------------------------------------------------------------------
 *
 * charge.c
 *	  Counts an attempt of a suspect before it begins.
 *
 * See culprit.c for what a suspect is.  The attempt is on disk, as if it had
 * ended the process, when the handler is called.  A message that is marked so
 * in inbox.message stays a suspect until an attempt comes to another end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/retry.h"

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "inbox/culprit.h"
#include "inbox/transaction.h"

/*
 * Attempts that a message has at least whose process ended: something else may
 * have ended it.
 */
#define MIN_ATTEMPTS 2

#define DEATH_SQLSTATE ERRCODE_CRASH_SHUTDOWN
#define DEATH_MESSAGE "the worker process ended while the handler ran"

/*
 * Counts an attempt of a message before it begins, as if it had ended the
 * process.
 */
void
charge_count(InboxWorker *worker, InboxMessage *message)
{
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE};

	store_fail(worker, message, &failure);
	message_set_text(message, MESSAGE_STATUS, "pending");
	message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = false;
}

/*
 * Has a process died during the message's last attempt?
 */
bool
charge_is_marked(const InboxMessage *message)
{
	return !message->nulls[MESSAGE_ERROR_SQLSTATE] &&
		strcmp(TextDatumGetCString(message->values[MESSAGE_ERROR_SQLSTATE]),
			   unpack_sql_state(DEATH_SQLSTATE)) == 0;
}

/*
 * Takes back the attempt that was counted before.
 */
void
charge_take_back(InboxMessage *message)
{
	message_set(message, MESSAGE_ATTEMPTS,
				Int32GetDatum(DatumGetInt32(message->values[MESSAGE_ATTEMPTS]) - 1));
	message->nulls[MESSAGE_ERROR] = message->nulls[MESSAGE_ERROR_SQLSTATE] =
		message->nulls[MESSAGE_ERROR_CONTEXT] =
		message->nulls[MESSAGE_ERROR_AT] = true;
}

/*
 * Must a message of inbox.message be handled alone?
 */
bool
charge_is_due(InboxWorker *worker, const Partition *partition,
			  const InboxMessage *message)
{
	return charge_is_marked(message) ||
		culprit_is_suspect(worker, partition, message, true);
}

/*
 * The transaction of one message could not be committed: that is how its attempt
 * has failed.
 */
void
charge_fail_at_commit(Round *round)
{
	InboxWorker *worker = round->worker;
	Waiting    *waiting = round->keys[0];
	MemoryContext context = CurrentMemoryContext;
	InboxMessage *messages;
	int			n;

	inbox_transaction_begin(worker, context);
	messages = retry_read(round, waiting, 1, &n);
	round->stopped = false;
	if (n > 0 && retry_offset(&messages[0]) == waiting->first_offset)
	{
		charge_take_back(&messages[0]);
		store_fail(worker, &messages[0], &round->failure);
		if (!retry_take_result(round, &messages[0], false) || n == 1)
			n = 1;
		retry_set_next(round, waiting, &messages[n - 1], &round->outcomes[0]);
		round->outcomes[0].finished = n == 1 &&
			messages[0].nulls[MESSAGE_NEXT_ATTEMPT_AT];
	}
	else
		round->outdated = true;
	inbox_transaction_commit(worker, 0);
	MemoryContextSwitchTo(context);
	retry_apply(round);
}

/* What is to be done with the first message of a key that may be suspect. */
static Charge
choose_charge(InboxWorker *worker, Waiting *waiting, const InboxMessage *message)
{
	int			attempts = DatumGetInt32(message->values[MESSAGE_ATTEMPTS]);

	if (!charge_is_due(worker, waiting->partition, message))
		return CHARGE_NONE;
	if (charge_is_marked(message) &&
		attempts >= Max(worker->subscription->max_attempts, MIN_ATTEMPTS))
		return CHARGE_FAILED;
	return CHARGE_RUNS;
}

/* The transaction of charge_first(). */
static Charge
charge_in_transaction(Round *round, Waiting *waiting)
{
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE};
	InboxWorker *worker = round->worker;
	InboxMessage *messages;
	Charge		charge;
	int			n;

	messages = retry_read(round, waiting, 1, &n);
	if (n == 0 || retry_offset(&messages[0]) != waiting->first_offset)
		return CHARGE_NONE;
	charge = choose_charge(worker, waiting, &messages[0]);
	if (charge == CHARGE_NONE)
		return CHARGE_NONE;
	if (charge == CHARGE_RUNS)
		charge_count(worker, &messages[0]);
	else
	{
		charge_take_back(&messages[0]);
		store_fail(worker, &messages[0], &failure);
	}
	(void) retry_take_result(round, &messages[0], false);
	if (charge == CHARGE_FAILED && n > 1)
		retry_set_next(round, waiting, &messages[1], &round->outcomes[0]);
	round->outcomes[0].finished = charge == CHARGE_FAILED && n == 1;
	(void) set_config_option("synchronous_commit", "on", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	return charge;
}

/*
 * Counts an attempt of the first message of a key, when it is suspect, on disk.
 * One that has no attempt left has failed.
 */
Charge
charge_first(InboxWorker *worker, Waiting *waiting)
{
	MemoryContext context = CurrentMemoryContext;
	Outcome		outcome = {waiting->key};
	Round		round = {.worker = worker,.keys = &waiting,.nkeys = 1,.outcomes = &outcome};
	volatile bool committed;
	volatile Charge charge;

	do
	{
		outcome.first_offset = waiting->first_offset;
		outcome.due = waiting->due;
		outcome.suspect = waiting->suspect;
		outcome.old = waiting->old;
		committed = true;
		PG_TRY();
		{
			inbox_transaction_begin(worker, context);
			charge = charge_in_transaction(&round, waiting);
			inbox_transaction_commit(worker, 0);
		}
		PG_CATCH();
		{
			(void) inbox_transaction_abort(worker, context, 1, &round.tries,
										   NULL);
			committed = false;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
	} while (!committed);
	if (charge == CHARGE_FAILED)
		retry_apply(&round);
	return charge;
}
