/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  A batch of messages is one transaction.
 *
 * The transaction drops what was received before, runs the handler, stores
 * the messages and moves the position.  The handler first runs over the whole
 * batch in one subtransaction.  Only when it fails, it runs again, message by
 * message, each in a subtransaction of its own.
 *
 * Messages that were fetched together may take several transactions: when
 * others get in the way, each takes fewer; see transaction.c.
 *
 * A worker is careful with messages that were under way when a process died.
 * It takes them one by one: first the message is stored as if its first
 * attempt had failed, and only then the handler runs.  So an attempt that ends
 * the process has been counted already.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/worker.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/worker.h"
#include "inbox/received.h"
#include "inbox/store.h"
#include "inbox/transaction.h"
#include "inbox/waiting.h"

/* What is to be done with a message. */
typedef enum Fate
{
	FATE_DROP,					/* received before, or not wanted */
	FATE_RUN,
	FATE_STORE					/* it waits, or has failed */
} Fate;

typedef struct Batch
{
	InboxWorker *worker;
	int			n;
	InboxMessage *messages;
	Partition **partitions;		/* of each message */
	Fate	   *fates;
	bool	   *done;			/* the handler has processed it */
	Move	   *moves;
	int			nmoves;
	int			tries;			/* transactions of its own that the first
								 * message has had in vain */
	bool		stopped;		/* the subscription stops here */
} Batch;

/* Is the message of a type that the subscription wants? */
static bool
is_wanted(const Subscription *subscription, const InboxMessage *message)
{
	char	   *type;

	if (subscription->event_types == NULL)
		return true;
	if (message->nulls[MESSAGE_EVENT_TYPE])
		return false;
	type = TextDatumGetCString(message->values[MESSAGE_EVENT_TYPE]);
	for (int i = 0; i < subscription->nevent_types; i++)
		if (strcmp(subscription->event_types[i], type) == 0)
			return true;
	return false;
}

/* The move of a message's partition; made when there is none. */
static Move *
move_of(Batch *batch, Partition *partition)
{
	for (int i = batch->nmoves - 1; i >= 0; i--)
		if (batch->moves[i].partition == partition)
			return &batch->moves[i];
	memset(&batch->moves[batch->nmoves], 0, sizeof(Move));
	batch->moves[batch->nmoves].partition = partition;
	return &batch->moves[batch->nmoves++];
}

/*
 * Makes messages of the records that are new to us, in the current memory
 * context.
 */
static Batch *
batch_create(InboxWorker *worker, ConsumerRecord *records, int n)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	batch->worker = worker;
	batch->messages = palloc(sizeof(InboxMessage) * n);
	batch->partitions = palloc(sizeof(Partition *) * n);
	batch->fates = palloc(sizeof(Fate) * n);
	batch->done = palloc(sizeof(bool) * n);
	batch->moves = palloc(sizeof(Move) * n);
	for (int i = 0; i < n; i++)
	{
		Partition  *partition = partitions_find(worker, records[i].topic,
												records[i].partition);

		/* What was fetched for an earlier assignment may still come. */
		if (partition == NULL || records[i].offset < partition->at.offset)
			continue;
		health_sign(partition);
		partition->at.offset = records[i].offset + 1;
		message_decode(&batch->messages[batch->n], worker->subscription->name,
					   &records[i]);
		batch->partitions[batch->n++] = partition;
	}
	return batch;
}

/* Drops what is not wanted, and what was received before. */
static void
drop_repeated(Batch *batch)
{
	char	   *consumer = psprintf("%c%s", RECEIVED_SUBSCRIPTION_PREFIX,
									batch->worker->subscription->name);
	Datum	   *ids = palloc(sizeof(Datum) * batch->n);
	int		   *numbers = palloc(sizeof(int) * batch->n);
	bool	   *fresh = palloc(sizeof(bool) * batch->n);
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
	{
		batch->done[i] = false;
		batch->fates[i] = FATE_DROP;
		if (!is_wanted(batch->worker->subscription, &batch->messages[i]))
			continue;
		ids[n] = batch->messages[i].values[MESSAGE_EVENT_ID];
		numbers[n++] = i;
	}
	received_add_batch(CStringGetTextDatum(consumer), ids, n, fresh);
	for (int i = 0; i < n; i++)
	{
		Partition  *partition = batch->partitions[numbers[i]];
		int64		offset = DatumGetInt64(batch->messages[numbers[i]].values[MESSAGE_OFFSET]);

		if (fresh[i] || offset < partition->rerun_until)
			batch->fates[numbers[i]] = FATE_RUN;
		else
			move_of(batch, partition)->duplicates++;
	}
}

/* Makes messages wait whose key waits already. */
static void
hold_back_waiting(Batch *batch)
{
	for (int i = 0; i < batch->n; i++)
		if (batch->fates[i] == FATE_RUN &&
			waiting_find(batch->worker, &batch->messages[i]) != NULL)
			batch->fates[i] = FATE_STORE;
}

static void
set_processed(InboxMessage *message)
{
	message_set_text(message, MESSAGE_STATUS, "processed");
	message_set(message, MESSAGE_PROCESSED_AT,
				TimestampTzGetDatum(GetCurrentTimestamp()));
	message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = true;
}

/*
 * A message has failed: notes it, and who has to wait.
 */
static void
take_failure(Batch *batch, int i, const HandlerFailure *failure)
{
	InboxWorker *worker = batch->worker;
	InboxMessage *message = &batch->messages[i];

	batch->fates[i] = FATE_STORE;
	store_fail(worker, message, failure);
	if (!message->nulls[MESSAGE_NEXT_ATTEMPT_AT])
		waiting_add(worker, batch->partitions[i], message, true);
	else if (worker->subscription->stops)
	{
		store_stop(worker, TextDatumGetCString(message->values[MESSAGE_EVENT_ID]));
		batch->stopped = true;
	}
}

/* Raises a failure as an error, so that the transaction begins anew. */
static void
raise_transient(const HandlerFailure *failure)
{
	ereport(ERROR,
			(errcode(failure->sqlstate),
			 errmsg_internal("%s", failure->message)));
}

/* Runs the handler message by message. */
static void
run_one_by_one(Batch *batch, Handler *handler)
{
	for (int i = 0; i < batch->n; i++)
	{
		InboxMessage *message = &batch->messages[i];
		HandlerFailure failure;

		if (batch->fates[i] != FATE_RUN)
			continue;
		if (batch->stopped || waiting_find(batch->worker, message) != NULL)
			batch->fates[i] = FATE_STORE;
		else if (handler_run(handler, &message, 1, &failure))
			batch->done[i] = true;
		else if (inbox_transaction_begins_anew(&failure, batch->tries))
			raise_transient(&failure);
		else
			take_failure(batch, i, &failure);
	}
}

/* Runs the handler over what is to be run. */
static void
run_handler(Batch *batch)
{
	InboxMessage **messages = palloc(sizeof(InboxMessage *) * batch->n);
	Handler		handler;
	HandlerFailure failure;
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
		if (batch->fates[i] == FATE_RUN)
			messages[n++] = &batch->messages[i];
	if (n == 0)
		return;
	handler_find(&handler, batch->worker);
	if (handler_run(&handler, messages, n, &failure))
	{
		for (int i = 0; i < batch->n; i++)
			batch->done[i] = batch->fates[i] == FATE_RUN;
		return;
	}
	if (inbox_transaction_begins_anew(&failure, batch->tries))
		raise_transient(&failure);
	run_one_by_one(batch, &handler);
}

/*
 * Instead of running the handler, counts an attempt: see the top of the file.
 */
static void
charge_all(Batch *batch)
{
	Handler		handler;

	/* One that is not there is not the message's fault. */
	handler_find(&handler, batch->worker);
	for (int i = 0; i < batch->n; i++)
	{
		if (batch->fates[i] != FATE_RUN)
			continue;
		batch->fates[i] = FATE_STORE;
		retry_charge(batch->worker, &batch->messages[i]);
		waiting_add(batch->worker, batch->partitions[i], &batch->messages[i], true);
	}
}

/* Stores the messages, and moves the positions. */
static void
store(Batch *batch)
{
	InboxMessage **messages = palloc(sizeof(InboxMessage *) * batch->n);
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
	{
		InboxMessage *message = &batch->messages[i];
		Move	   *move = move_of(batch, batch->partitions[i]);

		move->received++;
		move->next_offset = DatumGetInt64(message->values[MESSAGE_OFFSET]) + 1;
		if (!message->nulls[MESSAGE_CREATED_AT])
			move->read_until = DatumGetTimestampTz(message->values[MESSAGE_CREATED_AT]);
		if (batch->done[i])
		{
			move->processed++;
			set_processed(message);
		}
		if (batch->fates[i] == FATE_STORE ||
			(batch->done[i] && batch->worker->subscription->keeps))
			messages[n++] = message;
	}
	if (n > 0)
		store_messages(messages, n);
	store_move(batch->worker, batch->moves, batch->nmoves);
}

/* Runs the transaction once; false when it has to begin anew. */
static bool
try_batch(Batch *batch, bool careful)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool committed = true;

	batch->nmoves = 0;
	batch->stopped = false;
	PG_TRY();
	{
		inbox_transaction_begin(batch->worker, context);
		drop_repeated(batch);
		hold_back_waiting(batch);
		if (careful)
			charge_all(batch);
		else
			run_handler(batch);
		store(batch);
		inbox_transaction_commit(batch->worker, batch->n);
	}
	PG_CATCH();
	{
		inbox_transaction_abort(batch->worker, context, batch->n, &batch->tries);
		committed = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return committed;
}

/* The transaction has committed: partitions are further. */
static void
batch_committed(Batch *batch)
{
	for (int i = 0; i < batch->nmoves; i++)
	{
		Partition  *partition = batch->moves[i].partition;

		partition->stored = batch->moves[i].next_offset;
		if (batch->moves[i].read_until != 0)
			partition->read_until = batch->moves[i].read_until;
	}
	consumers_progress(batch->worker->entry);
	if (batch->stopped)
		worker_restart(batch->worker);
}

/* The n messages of a batch from first on, as a batch. */
static Batch
part_of(const Batch *batch, int first, int n)
{
	Batch		part = *batch;

	part.n = n;
	part.messages += first;
	part.partitions += first;
	part.fates += first;
	part.done += first;
	return part;
}

/*
 * Processes records, in as few transactions as the limit allows, or with care.
 */
static void
process(InboxWorker *worker, ConsumerRecord *records, int n, bool careful)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Batch	   *batch;
	InboxMessage *messages;
	int			first = 0;

	/* Texts may have to be converted, by functions in the catalog. */
	worker_begin();
	MemoryContextSwitchTo(context);
	batch = batch_create(worker, records, n);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	messages = palloc(sizeof(InboxMessage) * Max(batch->n, 1));
	memcpy(messages, batch->messages, sizeof(InboxMessage) * batch->n);
	while (first < batch->n)
	{
		int			size = Min(inbox_transaction_limit(worker), batch->n - first);
		Batch		part = part_of(batch, first, size);

		if (try_batch(&part, careful))
		{
			batch_committed(&part);
			first += part.n;
			batch->tries = 0;
			continue;
		}
		memcpy(part.messages, &messages[first], sizeof(InboxMessage) * part.n);
		batch->tries = part.tries;
	}
	if (careful && batch->n > 0 && batch->fates[0] == FATE_STORE)
		retry_run_charged(worker, &batch->messages[0]);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Processes the records that were fetched.
 */
void
batch_process(InboxWorker *worker)
{
	int			i = 0;

	for (; i < worker->nrecords && worker->careful > 0; i++)
	{
		process(worker, &worker->records[i], 1, true);
		worker->careful--;
		worker_check(worker);
	}
	if (i < worker->nrecords)
		process(worker, &worker->records[i], worker->nrecords - i, false);
}
