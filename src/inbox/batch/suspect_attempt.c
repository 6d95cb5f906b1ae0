/*-------------------------------------------------------------------------
 *
 * suspect_attempt.c
 *	  Counts an attempt of a suspect before it begins.
 *
 * See crash_suspects.c for what a suspect is.  The attempt is on disk, as if
 * it had ended the process, when the handler is called.  A message that is
 * marked so in inbox.message stays a suspect until an attempt comes to another
 * end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/suspect_attempt.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "core/background_worker.h"
#include "inbox/batch/batch_table.h"
#include "inbox/batch/batch_transaction.h"
#include "inbox/batch/crash_suspects.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/position_table.h"
#include "inbox/batch/redelivery_read.h"
#include "inbox/batch/redelivery_result.h"
#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "registry/consumers.h"

/*
 * Attempts that a message has at least whose process ended: something else may
 * have ended it.
 */
#define MIN_ATTEMPTS 2

#define DEATH_MESSAGE "the worker process ended while the handler ran"

/*
 * Counts an attempt of a message before it begins, as if it had ended the
 * process.
 */
void
suspect_attempt_count(InboxWorker *worker, InboxMessage *message)
{
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE};

	batch_table_fail(worker, message, &failure);
	message_set_text(message, MESSAGE_STATUS, "pending");
	message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = false;
}

/*
 * Has the transaction that counts an attempt on disk when it has committed.
 */
void
suspect_attempt_make_durable(void)
{
	(void) set_config_option("synchronous_commit", "on", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Takes back the attempt that was counted before, if it is marked so.
 */
void
suspect_attempt_take_back(InboxMessage *message)
{
	int			attempts = DatumGetInt32(message->values[MESSAGE_ATTEMPTS]);

	if (!charge_is_marked(message))
		return;
	message_set(message, MESSAGE_ATTEMPTS, Int32GetDatum(Max(attempts - 1, 0)));
	message->nulls[MESSAGE_ERROR] = message->nulls[MESSAGE_ERROR_SQLSTATE] =
		message->nulls[MESSAGE_ERROR_CONTEXT] =
		message->nulls[MESSAGE_ERROR_AT] = true;
}

/*
 * Runs a small transaction about the first message of a key, until it commits;
 * returns what work() does.
 */
static Charge
in_transaction(Round *round, Charge (*work) (Round *round, Waiting *waiting))
{
	InboxWorker *worker = round->worker;
	Waiting    *waiting = round->keys[0];
	MemoryContext context = CurrentMemoryContext;
	volatile bool committed;
	volatile Charge result;

	do
	{
		if (round->disturbed)
			position_wait(worker);
		round->disturbed = false;
		round->outcomes[0].first_offset = waiting->first_offset;
		round->outcomes[0].due = waiting->due;
		round->outcomes[0].suspect = waiting->suspect;
		round->outcomes[0].old = waiting->old;
		round->outcomes[0].finished = false;
		round->nmoves = 0;
		round->stopped = round->outdated = false;
		committed = true;
		PG_TRY();
		{
			inbox_transaction_begin(worker, context);
			result = work(round, waiting);
			inbox_transaction_commit(worker, 0);
		}
		PG_CATCH();
		{
			(void) inbox_transaction_abort(worker, context, 1, &round->tries,
										   NULL);
			committed = false;
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
	} while (!committed);
	return result;
}

/* The transaction of suspect_attempt_fail_at_commit(). */
static Charge
fail_in_transaction(Round *round, Waiting *waiting)
{
	Outcome    *outcome = &round->outcomes[0];
	int			n;
	InboxMessage *messages = retry_read(round, waiting, 1, &n);
	bool		goes_on;

	if (n == 0 || retry_offset(&messages[0]) != waiting->first_offset)
	{
		round->outdated = true;
		return CHARGE_NONE;
	}
	suspect_attempt_take_back(&messages[0]);
	batch_table_fail(round->worker, &messages[0], &round->failure);
	goes_on = retry_take_result(round, &messages[0], false);
	outcome->finished = goes_on && n == 1;
	if (!outcome->finished)
		retry_set_next(round, waiting, &messages[goes_on ? 1 : 0], outcome);
	return CHARGE_NONE;
}

/*
 * The transaction of one message could not be committed: that is how its attempt
 * has failed.
 */
void
suspect_attempt_fail_at_commit(Round *round)
{
	(void) in_transaction(round, fail_in_transaction);
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

/* The transaction of suspect_attempt_first(). */
static Charge
charge_in_transaction(Round *round, Waiting *waiting)
{
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE};
	InboxWorker *worker = round->worker;
	InboxMessage *messages;
	Handler		handler;
	Charge		charge;
	int			n;

	/* One that is not there is not the message's fault. */
	handler_find(&handler, worker);
	messages = retry_read(round, waiting, 1, &n);
	if (n == 0 || retry_offset(&messages[0]) != waiting->first_offset)
		return CHARGE_NONE;
	charge = choose_charge(worker, waiting, &messages[0]);
	if (charge == CHARGE_NONE)
		return CHARGE_NONE;
	if (charge == CHARGE_RUNS)
		suspect_attempt_count(worker, &messages[0]);
	else
	{
		suspect_attempt_take_back(&messages[0]);
		batch_table_fail(worker, &messages[0], &failure);
	}
	(void) retry_take_result(round, &messages[0], false);
	if (charge == CHARGE_FAILED && n > 1)
		retry_set_next(round, waiting, &messages[1], &round->outcomes[0]);
	round->outcomes[0].finished = charge == CHARGE_FAILED && n == 1;
	suspect_attempt_make_durable();
	return charge;
}

/*
 * Counts an attempt of the first message of a key, when it is suspect, on disk.
 * One that has no attempt left has failed.
 */
Charge
suspect_attempt_first(InboxWorker *worker, Waiting *waiting)
{
	Outcome		outcome = {waiting->key};
	Round		round = {.worker = worker,.keys = &waiting,.nkeys = 1,.outcomes = &outcome};
	Charge		charge = in_transaction(&round, charge_in_transaction);

	if (charge == CHARGE_FAILED)
		retry_apply(&round);
	return charge;
}

/* Is it the message's fault that the process ends? */
static bool
is_to_blame(InboxWorker *worker)
{
	if (handler_is_overdue())
		return true;
	return (worker->phase == PHASE_HANDLER || worker->phase == PHASE_COMMIT) &&
		!consumers_must_leave(worker->entry) && !worker_server_stops();
}

#define OF_CHARGED \
	" WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" AND topic OPERATOR(pg_catalog.=) $2" \
	" AND partition OPERATOR(pg_catalog.=) $3" \
	" AND \"offset\" OPERATOR(pg_catalog.=) $4" \
	" AND status OPERATOR(pg_catalog.=) 'pending'" \
	" AND attempts OPERATOR(pg_catalog.>) 0" \
	" AND error_sqlstate OPERATOR(pg_catalog.=) '57P02'"

/*
 * The process ends: an attempt that was counted, and did not end it, is taken
 * back.
 */
void
suspect_attempt_end(InboxWorker *worker)
{
	Oid			types[4] = {TEXTOID, TEXTOID, INT4OID, INT8OID};
	Datum		args[4];

	if (worker->charged == NULL || is_to_blame(worker))
		return;
	worker_begin_sql_at_exit();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	args[1] = CStringGetTextDatum(worker->charged->at.topic);
	args[2] = Int32GetDatum(worker->charged->at.partition);
	args[3] = Int64GetDatum(worker->charged_offset);
	worker->charged = NULL;
	/* Without waiting: who has a lock may wait for this process. */
	if (worker_try_lock("inbox", "message", RowExclusiveLock) == LOCK_TAKEN &&
		SPI_execute_with_args("SELECT FROM inbox.message" OF_CHARGED
							  " FOR UPDATE SKIP LOCKED", 4, types, args, NULL, false, 0) == SPI_OK_SELECT &&
		SPI_processed > 0)
		(void) SPI_execute_with_args("UPDATE inbox.message"
									 " SET attempts = attempts OPERATOR(pg_catalog.-) 1, error = NULL,"
									 " error_sqlstate = NULL, error_context = NULL, error_at = NULL"
									 OF_CHARGED, 4, types, args, NULL, false, 0);
	worker_commit_sql();
}
