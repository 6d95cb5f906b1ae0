/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  Tries messages again that wait in inbox.message.
 *
 * When the pause of a key is over, its messages run in order, each in a
 * subtransaction of its own, until one fails.
 *
 * A round has locked messages when it comes to the positions.
 * inbox.unsubscribe() locks these first.  So the round does not wait for it
 * but is undone, and the next one waits before it locks anything.
 *
 * A message during which a process died runs alone, and its attempt is
 * counted and on disk before it begins: see batch.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/waiting.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/steady.h"
#include "base/worker.h"
#include "inbox/handler.h"
#include "inbox/store.h"
#include "inbox/transaction.h"

#define ROUND_KEYS 100			/* that one transaction looks at */
#define KEY_MESSAGES 100		/* of each of them */

#define DEATH_SQLSTATE ERRCODE_CRASH_SHUTDOWN
#define DEATH_MESSAGE "the worker process ended while the handler ran"

/* What a round means for a key, once it has committed. */
typedef struct Outcome
{
	WaitingKey	key;
	bool		finished;		/* nothing of it waits any more */
	bool		suspect;		/* the first message is */
	int64		first_offset;
	TimestampTz due;
} Outcome;

typedef struct Round
{
	InboxWorker *worker;
	Handler		handler;
	Waiting   **keys;
	int			nkeys;
	Outcome    *outcomes;
	Move	   *moves;
	int			nmoves;
	int			limit;			/* so many messages it may take */
	int			taken;			/* and has taken so far */
	int			tries;			/* transactions in vain for one message */
	bool		disturbed;		/* somebody else had locked a position */
	bool		charged;		/* attempts were counted before */
	bool		stopped;
} Round;

/*
 * Counts an attempt of a message before it begins, as if it had ended the
 * process.
 */
void
retry_charge(InboxWorker *worker, InboxMessage *message)
{
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE, NULL, false};

	store_fail(worker, message, &failure);
	message_set_text(message, MESSAGE_STATUS, "pending");
	message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = false;
}

/*
 * Has a process died during the message's last attempt?
 */
bool
retry_is_suspect(const InboxMessage *message)
{
	return !message->nulls[MESSAGE_ERROR_SQLSTATE] &&
		strcmp(TextDatumGetCString(message->values[MESSAGE_ERROR_SQLSTATE]),
			   unpack_sql_state(DEATH_SQLSTATE)) == 0;
}

#define FIRST_OF_EACH(distinct) \
	"SELECT DISTINCT ON (" distinct ") m.*" \
	" FROM inbox.message m" \
	" WHERE m.subscription OPERATOR(pg_catalog.=) $1" \
	" AND m.status OPERATOR(pg_catalog.=) 'pending'" \
	" ORDER BY " distinct ", \"offset\""

/*
 * Finds out what waits in the table for the partitions that we read.  Keys
 * that are known already stay as they are.  Runs a transaction of its own.
 */
void
retry_load(InboxWorker *worker)
{
	static const char *const queries[] = {
		[ORDERING_KEY] = FIRST_OF_EACH("topic, partition, key, CASE WHEN key IS NULL THEN \"offset\" END"),
		[ORDERING_PARTITION] = FIRST_OF_EACH("topic, partition"),
		[ORDERING_NONE] = FIRST_OF_EACH("topic, partition, \"offset\""),
	};
	Oid			types[1] = {TEXTOID};
	Datum		args[1];

	worker_begin_sql();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	if (SPI_execute_with_args(queries[worker->subscription->ordering], 1, types,
							  args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read inbox.message");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		InboxMessage message;
		Partition  *partition;

		message_from_tuple(&message, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		partition = partitions_find(worker,
									TextDatumGetCString(message.values[MESSAGE_TOPIC]),
									DatumGetInt32(message.values[MESSAGE_PARTITION]));
		if (partition != NULL)
			waiting_add(worker, partition, &message, false);
	}
	worker_commit_sql();
}

#define NEXT_QUERY(filter) \
	"SELECT m.* FROM inbox.message m" \
	" WHERE m.subscription OPERATOR(pg_catalog.=) $1" \
	" AND m.status OPERATOR(pg_catalog.=) 'pending'" \
	" AND m.topic OPERATOR(pg_catalog.=) $2" \
	" AND m.partition OPERATOR(pg_catalog.=) $3 AND " filter \
	" ORDER BY m.\"offset\" LIMIT $5"

#define SAME_KEY \
	"m.\"offset\" OPERATOR(pg_catalog.>=) $4 AND (m.\"offset\" OPERATOR(pg_catalog.=) $4" \
	" OR m.key OPERATOR(pg_catalog.=) (SELECT f.key FROM inbox.message f" \
	"  WHERE f.subscription OPERATOR(pg_catalog.=) $1" \
	"  AND f.status OPERATOR(pg_catalog.=) 'pending'" \
	"  AND f.topic OPERATOR(pg_catalog.=) $2" \
	"  AND f.partition OPERATOR(pg_catalog.=) $3" \
	"  AND f.\"offset\" OPERATOR(pg_catalog.=) $4))"

/* Reads the first messages of a key: limit, and one to know the next. */
static InboxMessage *
read_messages(Round *round, const Waiting *waiting, int limit, int *n)
{
	static const char *const queries[] = {
		[ORDERING_KEY] = NEXT_QUERY(SAME_KEY),
		[ORDERING_PARTITION] = NEXT_QUERY("m.\"offset\" OPERATOR(pg_catalog.>=) $4"),
		[ORDERING_NONE] = NEXT_QUERY("m.\"offset\" OPERATOR(pg_catalog.=) $4"),
	};
	static SPIPlanPtr plan = NULL;
	Subscription *subscription = round->worker->subscription;
	Oid			types[5] = {TEXTOID, TEXTOID, INT4OID, INT8OID, INT8OID};
	Datum		args[5] = {CStringGetTextDatum(subscription->name),
		CStringGetTextDatum(waiting->partition->at.topic),
		Int32GetDatum(waiting->partition->at.partition),
		Int64GetDatum(waiting->first_offset),
	Int64GetDatum((int64) limit + 1)};
	InboxMessage *messages;

	if (plan == NULL)
	{
		plan = SPI_prepare(queries[subscription->ordering], 5, types);
		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare the search for waiting messages");
	}
	if (SPI_execute_plan(plan, args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read inbox.message");
	*n = (int) SPI_processed;
	messages = palloc(sizeof(InboxMessage) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		message_from_tuple(&messages[i], SPI_tuptable->vals[i],
						   SPI_tuptable->tupdesc);
	return messages;
}

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

/* Takes back the attempt that was counted before. */
static void
uncharge(InboxMessage *message)
{
	message_set(message, MESSAGE_ATTEMPTS,
				Int32GetDatum(DatumGetInt32(message->values[MESSAGE_ATTEMPTS]) - 1));
	message->nulls[MESSAGE_ERROR] = message->nulls[MESSAGE_ERROR_SQLSTATE] =
		message->nulls[MESSAGE_ERROR_CONTEXT] =
		message->nulls[MESSAGE_ERROR_AT] = true;
}

/*
 * Tries one message; returns whether the next one of its key may run.
 */
static bool
try_message(Round *round, InboxMessage *message)
{
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE, NULL, false};
	bool		succeeded;

	round->taken++;
	if (round->charged)
		uncharge(message);
	succeeded = handler_run(&round->handler, &message, 1, &failure);
	if (succeeded)
	{
		message_set_text(message, MESSAGE_STATUS, "processed");
		message_set(message, MESSAGE_PROCESSED_AT,
					TimestampTzGetDatum(GetCurrentTimestamp()));
		message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = true;
	}
	else if (inbox_transaction_begins_anew(&failure, round->tries))
		ereport(ERROR,
				(errcode(failure.sqlstate),
				 errmsg_internal("%s", failure.message)));
	else
		store_fail(round->worker, message, &failure);
	store_retried(round->worker, message);
	if (succeeded || !message->nulls[MESSAGE_NEXT_ATTEMPT_AT])
		return succeeded;
	if (round->worker->subscription->stops)
	{
		store_stop(round->worker,
				   TextDatumGetCString(message->values[MESSAGE_EVENT_ID]));
		round->stopped = true;
	}
	return !round->stopped;
}

/* Tries the messages of one key, as many as the round may still take. */
static void
try_key(Round *round, Waiting *waiting, Outcome *outcome)
{
	int			limit = Min(round->limit - round->taken, KEY_MESSAGES);
	int			n;
	InboxMessage *messages = read_messages(round, waiting, limit, &n);
	int			processed = 0;
	int			i = 0;

	for (; i < Min(n, limit); i++)
	{
		/* One that may end the process gets a transaction of its own. */
		outcome->suspect = retry_is_suspect(&messages[i]) && !round->charged;
		if (outcome->suspect)
			break;
		if (!try_message(round, &messages[i]))
			break;
		if (!messages[i].nulls[MESSAGE_PROCESSED_AT])
			processed++;
	}
	count_processed(round, waiting->partition, processed);
	outcome->key = waiting->key;
	outcome->finished = i == n;
	if (i < n)
	{
		outcome->first_offset = DatumGetInt64(messages[i].values[MESSAGE_OFFSET]);
		outcome->due = waiting_until(round->worker, &messages[i]);
	}
}

/* Runs the transaction of a round once; false when it has to begin anew. */
static bool
try_round(Round *round)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool committed = true;

	round->nmoves = 0;
	round->taken = 0;
	round->stopped = false;
	PG_TRY();
	{
		inbox_transaction_begin(round->worker, context);
		if (round->disturbed)
			store_wait_and_lock(round->worker);
		handler_find(&round->handler, round->worker);
		for (int i = 0; i < round->nkeys; i++)
		{
			round->outcomes[i].key = round->keys[i]->key;
			round->outcomes[i].finished = false;
			round->outcomes[i].suspect = false;
			round->outcomes[i].first_offset = round->keys[i]->first_offset;
			round->outcomes[i].due = round->keys[i]->due;
			if (!round->stopped && round->taken < round->limit)
				try_key(round, round->keys[i], &round->outcomes[i]);
		}
		round->disturbed = !store_lock(round->worker, round->moves, round->nmoves);
		if (round->disturbed)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("a position is being changed by somebody else")));
		store_move(round->worker, round->moves, round->nmoves);
		inbox_transaction_commit(round->worker, round->taken);
	}
	PG_CATCH();
	{
		inbox_transaction_abort(round->worker, context,
								Max(round->nkeys, round->taken), &round->tries);
		committed = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return committed;
}

/* Notes what a round means, after it has committed. */
static void
apply_outcomes(Round *round)
{
	InboxWorker *worker = round->worker;

	for (int i = 0; i < round->nkeys; i++)
	{
		Outcome    *outcome = &round->outcomes[i];
		Waiting    *waiting = round->keys[i];

		waiting->first_offset = outcome->first_offset;
		waiting->due = outcome->due;
		waiting->suspect = outcome->suspect;
		if (outcome->finished)
			(void) hash_search(worker->waiting, &outcome->key, HASH_REMOVE, NULL);
	}
	consumers_progress(worker->entry);
	if (round->stopped)
		worker_restart(worker);
}

/*
 * Makes a round over some keys, in the current memory context.  Returns how
 * many of them it got to: fewer when a transaction may not take so much.
 */
static int
run_round(InboxWorker *worker, Waiting **keys, int nkeys, bool charged)
{
	Round	   *round = palloc0(sizeof(Round));

	round->worker = worker;
	round->keys = keys;
	round->charged = charged;
	round->outcomes = palloc0(sizeof(Outcome) * nkeys);
	round->moves = palloc(sizeof(Move) * nkeys);
	do
	{
		round->limit = charged ? 1 : inbox_transaction_limit(worker);
		round->nkeys = Min(nkeys, round->limit);
	} while (!try_round(round));
	apply_outcomes(round);
	return round->nkeys;
}

/*
 * Runs a message whose attempt was counted, and is on disk.
 */
void
retry_run_charged(InboxWorker *worker, InboxMessage *message)
{
	Waiting    *waiting = waiting_find(worker, message);

	if (waiting != NULL &&
		waiting->first_offset == DatumGetInt64(message->values[MESSAGE_OFFSET]))
		(void) run_round(worker, &waiting, 1, true);
}

/*
 * Counts an attempt of the first message of a key, when it is suspect.  Returns
 * whether it is and may run.  One that has no attempt left has failed.
 */
static bool
charge_suspect(InboxWorker *worker, Waiting *waiting)
{
	MemoryContext context = CurrentMemoryContext;
	Round		round = {.worker = worker};
	HandlerFailure failure = {DEATH_SQLSTATE, DEATH_MESSAGE, NULL, false};
	InboxMessage *messages;
	bool		runs = false;
	bool		stops = false;
	int			n;

	inbox_transaction_begin(worker, context);
	messages = read_messages(&round, waiting, 1, &n);
	if (n > 0 && retry_is_suspect(&messages[0]))
	{
		if (DatumGetInt32(messages[0].values[MESSAGE_ATTEMPTS]) <
			worker->subscription->max_attempts)
		{
			retry_charge(worker, &messages[0]);
			runs = true;
		}
		else
		{
			uncharge(&messages[0]);
			store_fail(worker, &messages[0], &failure);
			stops = worker->subscription->stops;
			if (stops)
				store_stop(worker, TextDatumGetCString(messages[0].values[MESSAGE_EVENT_ID]));
			if (n > 1)
				waiting->first_offset = DatumGetInt64(messages[1].values[MESSAGE_OFFSET]);
		}
		store_retried(worker, &messages[0]);
		(void) set_config_option("synchronous_commit", "on", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	}
	inbox_transaction_commit(worker, 0);
	MemoryContextSwitchTo(context);
	if (stops)
		worker_restart(worker);
	return runs;
}

/* Orders keys by the offset of their first message. */
static int
compare_keys(const void *a, const void *b)
{
	const Waiting *x = *(Waiting *const *) a;
	const Waiting *y = *(Waiting *const *) b;

	return x->first_offset < y->first_offset ? -1 :
		x->first_offset > y->first_offset;
}

/*
 * The keys whose pause is over, at most ROUND_KEYS; the oldest first.
 */
static int
collect_due(InboxWorker *worker, Waiting **keys)
{
	TimestampTz now = steady_now();
	HASH_SEQ_STATUS scan;
	Waiting    *waiting;
	int			n = 0;

	hash_seq_init(&scan, worker->waiting);
	while ((waiting = hash_seq_search(&scan)) != NULL)
	{
		if (waiting->due > now)
			continue;
		keys[n++] = waiting;
		if (n == ROUND_KEYS)
		{
			hash_seq_term(&scan);
			break;
		}
	}
	qsort(keys, n, sizeof(Waiting *), compare_keys);
	return n;
}

/*
 * Tries messages whose pause is over.
 */
void
retry_run(InboxWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox retry",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Waiting    *keys[ROUND_KEYS];
	Waiting    *plain[ROUND_KEYS];
	int			n = collect_due(worker, keys);
	int			nplain = 0;

	for (int i = 0; i < n; i++)
	{
		if (keys[i]->suspect && charge_suspect(worker, keys[i]))
			(void) run_round(worker, &keys[i], 1, true);
		else
			plain[nplain++] = keys[i];
	}
	for (int first = 0; first < nplain;)
		first += run_round(worker, &plain[first], nplain - first, false);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
