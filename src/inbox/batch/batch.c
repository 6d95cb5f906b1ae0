/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  A batch of messages is one transaction.
 *
 * The transaction drops what was received before, runs the handler, stores
 * the messages and moves the position.  The handler first runs over the whole
 * batch in one subtransaction.  When it fails, it runs over the halves, and so
 * on, until those that fail are alone.
 *
 * Messages that were fetched together may take several transactions: when
 * others get in the way, or time is up, each takes fewer; see
 * batch_transaction.c.  What a transaction does not get to, it leaves as it
 * was.
 *
 * A suspect (see crash_suspects.c) is first stored as if its first attempt had
 * failed.  Only then its handler runs, as that of any message that waits.
 * Suspects that were received before are passed many at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/batch.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/batch/batch_part.h"
#include "inbox/batch/batch_table.h"
#include "inbox/batch/batch_transaction.h"
#include "inbox/batch/failure_report.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/message_batch.h"
#include "inbox/batch/position_move.h"
#include "inbox/batch/position_table.h"
#include "inbox/batch/record_decoder.h"
#include "inbox/batch/redelivery.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/repeated_messages.h"
#include "inbox/batch/suspect_attempt.h"
#include "inbox/batch/transaction_limit.h"
#include "inbox/batch/under_way.h"
#include "inbox/batch/unprocessed_rows.h"
#include "inbox/message/message.h"
#include "inbox/partition/assignment.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"
#include "inbox/process/worker_wait.h"
#include "registry/consumers.h"

/* So many of which one has failed are run one by one. */
#define FEW_MESSAGES 8

static bool run_range(Batch *batch, Handler *handler, int first, int last);

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

/* Makes a message wait behind those of its key; false when there are none. */
static bool
hold_back(Batch *batch, int i)
{
	if (redelivery_queue_find(batch->worker, &batch->messages[i]) == NULL)
		return false;
	batch->fates[i] = FATE_STORE;
	return true;
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
	batch_table_fail(worker, message, failure);
	if (!message->nulls[MESSAGE_NEXT_ATTEMPT_AT])
	{
		redelivery_queue_add(worker, batch->partitions[i], message, true);
		return;
	}
	failure_report_failed(worker, message);
	if (worker->subscription->stops)
	{
		batch_table_stop(worker, message, &batch->disturbed);
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

/*
 * Collects those of the messages first to last - 1 that are to be run, and
 * their numbers.
 */
static int
collect(Batch *batch, int first, int last, InboxMessage **messages, int *numbers)
{
	int			n = 0;

	for (int i = first; i < last; i++)
		if (batch->fates[i] == FATE_RUN && !hold_back(batch, i))
		{
			messages[n] = &batch->messages[i];
			numbers[n++] = i;
		}
	return n;
}

/*
 * Runs the handler over the halves of n messages for which it has failed, or,
 * when they are few, over each.  When time is up, the first one is all that the
 * transaction still gets to, so it is run alone.  numbers are theirs, and last is that after
 * them.  Returns false when the transaction ends here.
 */
static bool
run_parts(Batch *batch, Handler *handler, const int *numbers, int n, int last)
{
	bool		over = inbox_transaction_is_over(batch->worker);
	int			step = n > FEW_MESSAGES && !over ? (n + 1) / 2 : 1;

	for (int i = 0; i < n; i += step)
		if (!run_range(batch, handler, numbers[i],
					   i + step < n ? numbers[i + step] : last))
			return false;
	return true;
}

/*
 * Runs the handler over the messages first to last - 1; when it fails, over
 * parts of them.  Returns false when the transaction ends here.
 */
static bool
run_range(Batch *batch, Handler *handler, int first, int last)
{
	InboxMessage **messages = palloc(sizeof(InboxMessage *) * (last - first));
	int		   *numbers = palloc(sizeof(int) * (last - first));
	int			n = collect(batch, first, last, messages, numbers);
	int			ran = n;
	HandlerFailure failure;

	if (n == 0)
		return true;
	if (numbers[0] > 0 && inbox_transaction_is_over(batch->worker))
	{
		repeated_messages_end_before(batch, numbers[0]);
		return false;
	}
	if (handler_run(handler, messages, &ran, &failure))
	{
		for (int i = 0; i < ran; i++)
			batch->done[numbers[i]] = true;
		if (ran < n)
			repeated_messages_end_before(batch, numbers[ran]);
		return ran == n;
	}
	if (inbox_transaction_begins_anew(&failure, batch->tries))
		raise_transient(&failure);
	if (n > 1)
		return run_parts(batch, handler, numbers, n, last);
	take_failure(batch, numbers[0], &failure);
	if (batch->stopped)
		repeated_messages_end_before(batch, numbers[0] + 1);
	return !batch->stopped;
}

/* Runs the handler over what is to be run. */
static void
run_handler(Batch *batch)
{
	Handler		handler;
	int			n = 0;

	for (int i = 0; i < batch->end; i++)
		if (batch->fates[i] == FATE_RUN)
		{
			culprit_under_way(batch->worker, &batch->messages[i]);
			n++;
		}
	if (n == 0)
		return;
	handler_find(&handler, batch->worker);
	(void) run_range(batch, &handler, 0, batch->end);
}

/*
 * Instead of running the handler, counts an attempt of the first message that it
 * would run for: see the top of the file.  The transaction ends behind that one.
 */
static void
charge_next(Batch *batch)
{
	Handler		handler;

	/* One that is not there is not the message's fault. */
	handler_find(&handler, batch->worker);
	for (int i = 0; i < batch->end && !batch->charged; i++)
	{
		if (batch->fates[i] != FATE_RUN || hold_back(batch, i))
			continue;
		batch->fates[i] = FATE_STORE;
		suspect_attempt_count(batch->worker, &batch->messages[i]);
		batch->charged = true;
		redelivery_queue_add(batch->worker, batch->partitions[i], &batch->messages[i], true);
		repeated_messages_end_before(batch, i + 1);
		suspect_attempt_make_durable();
	}
}

/* Where the subscription stops at a message that has a problem, ends there. */
static void
end_at_rejected(Batch *batch)
{
	for (int i = 0; i < batch->end; i++)
		if (batch->fates[i] == FATE_REJECT && batch->worker->subscription->stops)
			repeated_messages_end_before(batch, i + 1);
}

/* Makes messages fail that have a problem, without their handler. */
static void
reject(Batch *batch)
{
	for (int i = 0; i < batch->end; i++)
	{
		if (batch->fates[i] != FATE_REJECT)
			continue;
		batch_table_reject(&batch->messages[i]);
		unprocessed_note();
		if (batch->worker->subscription->stops)
		{
			batch_table_stop(batch->worker, &batch->messages[i],
							 &batch->disturbed);
			batch->stopped = true;
		}
	}
}

/* Stores the messages, and moves the positions. */
static void
store(Batch *batch)
{
	InboxMessage **messages = palloc(sizeof(InboxMessage *) * batch->n);
	int			n = 0;

	repeated_messages_remove_replaced(batch);
	for (int i = 0; i < batch->end; i++)
	{
		InboxMessage *message = &batch->messages[i];
		Move	   *move = move_of(batch, batch->partitions[i]);

		move->received++;
		move->duplicates += batch->fates[i] == FATE_REPEATED;
		move->conflicts += batch->conflicts[i];
		move->before = move->last;
		move->last = batch->records[i];
		move->next_offset = DatumGetInt64(message->values[MESSAGE_OFFSET]) + 1;
		if (!message->nulls[MESSAGE_CREATED_AT])
			move->read_until = DatumGetTimestampTz(message->values[MESSAGE_CREATED_AT]);
		if (batch->done[i])
		{
			move->processed++;
			set_processed(message);
		}
		if (batch->fates[i] == FATE_STORE)
		{
			redelivery_queue_join(batch->worker, message);
			unprocessed_note();
		}
		if (batch->fates[i] == FATE_STORE || batch->fates[i] == FATE_REJECT ||
			(batch->done[i] && batch->worker->subscription->keeps))
			messages[n++] = message;
	}
	batch->storing = true;
	if (n > 0)
		batch_table_messages(messages, n);
	batch->storing = false;
	for (int i = 0; i < batch->nmoves; i++)
		marks_update(batch->moves[i].marks, batch->moves[i].partition,
					 batch->moves[i].before, batch->moves[i].last);
	position_move(batch->worker, batch->moves, batch->nmoves, &batch->disturbed);
}

/*
 * An error was raised: was what is stored too much?  What lacks something already
 * fails for another reason.
 */
static bool
is_too_much(const Batch *batch)
{
	const MessageProblem *problem = batch->messages[0].problem;

	return batch->storing &&
		(batch->n > 1 || problem == NULL || !problem->lacks) &&
		record_decoder_was_too_much(batch->records, batch->n);
}

/* Runs the transaction once; returns whether it has committed. */
static bool
try_batch(Batch *batch)
{
	InboxWorker *worker = batch->worker;
	MemoryContext context = CurrentMemoryContext;
	int			tries = batch->tries;
	volatile bool committed = true;

	batch->nmoves = 0;
	batch->end = batch->n;
	batch->stopped = batch->charged = batch->storing = false;
	if (batch->disturbed)
		position_wait(worker);
	batch->disturbed = false;
	PG_TRY();
	{
		inbox_transaction_begin(worker, context);
		repeated_messages_drop(batch);
		end_at_rejected(batch);
		if (batch->charge)
			charge_next(batch);
		else
			run_handler(batch);
		reject(batch);
		store(batch);
		inbox_transaction_commit(worker, batch->charge ? 0 : batch->end);
	}
	PG_CATCH();
	{
		if (is_too_much(batch))
			batch->unstored = inbox_transaction_take_less(worker, context, batch->n,
														  &batch->tries, &batch->failure);
		else if (inbox_transaction_abort(worker, context, batch->n, &batch->tries,
										 &batch->failure) == ABORTED_AT_COMMIT)
			culprit_suspect(worker);
		/* Whoever has locked something, it is not the message's fault. */
		if (batch->disturbed)
			batch->tries = tries;
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
		partition->place = batch->moves[i].place;
		memcpy(partition->marks, batch->moves[i].marks, sizeof(partition->marks));
		partition->marked = false;
		if (batch->moves[i].read_until != 0)
			partition->read_until = batch->moves[i].read_until;
	}
	batch_part_committed(batch);
	consumers_progress(batch->worker->entry);
	if (batch->stopped)
		worker_restart(batch->worker);
}

/*
 * Processes messages, in as few transactions as may be, until one of these is
 * slow and nothing comes of it.
 */
static void
process(Batch *batch)
{
	InboxWorker *worker = batch->worker;
	InboxMessage *messages = palloc(sizeof(InboxMessage) * Max(batch->n, 1));
	int			nslow = worker->pace.nslow;
	int			first = 0;

	memcpy(messages, batch->messages, sizeof(InboxMessage) * batch->n);
	while (first < batch->n && worker->pace.nslow == nslow)
	{
		Batch		part = batch_part_take(batch, first);

		repeated_messages_look(&part);
		if (!try_batch(&part))
		{
			if (part.unstored)
				record_decoder_without(worker->subscription, &messages[first],
									   part.records[0], &part.failure);
			memcpy(part.messages, &messages[first], sizeof(InboxMessage) * part.n);
			batch->tries = part.tries;
			batch->disturbed = part.disturbed;
			continue;
		}
		batch_committed(&part);
		first += part.end;
		batch->tries = 0;
		batch->disturbed = false;
		if (part.charged)
			redelivery_run_charged(worker, &part.messages[part.end - 1]);
		/* A slow handler may keep us here for long. */
		worker_show_sometimes(worker);
		worker_check(worker);
		if (worker->pace.nslow == nslow && redelivery_queue_due(worker) <= monotonic_now())
			redelivery_run(worker);
	}
	partitions_give_back(worker, &batch->partitions[first],
						 &batch->records[first], batch->n - first);
}

/*
 * Processes the records that were fetched.
 */
void
batch_process(InboxWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Batch	   *batch;

	/* Texts may have to be converted, by functions in the catalog. */
	worker_begin();
	MemoryContextSwitchTo(context);
	batch = batch_create(worker, worker->records, worker->nrecords);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	process(batch);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
