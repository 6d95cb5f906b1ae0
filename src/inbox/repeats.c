/*-------------------------------------------------------------------------
 *
 * repeats.c
 *	  What a batch need not process: what is not wanted, and what came before.
 *
 * A message came before when inbox.received has an entry of it.  The entry is
 * added in the transaction that processes the message.  When messages are
 * processed again (inbox.seek() with rerun), the entry is renewed: its time
 * tells which of several with the same id was the one.
 *
 * Of an event_id of a topic there is one row of inbox.message at most that waits
 * or has failed.  It stands for what comes again, however late.  When it has
 * failed and is to be processed again, the new one takes its place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "inbox/received.h"
#include "inbox/unprocessed.h"

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

/* Whose entries of inbox.received these are. */
static Datum
received_consumer(const Batch *batch)
{
	return CStringGetTextDatum(psprintf("%c%s", RECEIVED_SUBSCRIPTION_PREFIX,
										batch->worker->subscription->name));
}

/* Shall a message be processed again that was before? */
static bool
is_rerun(const Batch *batch, int i)
{
	return DatumGetInt64(batch->messages[i].values[MESSAGE_OFFSET]) <
		batch->partitions[i]->rerun_until;
}

/* Adds the entries of those that are wanted. */
static void
add_entries(Batch *batch)
{
	Datum	   *ids = palloc(sizeof(Datum) * batch->n);
	int		   *numbers = palloc(sizeof(int) * batch->n);
	bool	   *fresh = palloc(sizeof(bool) * batch->n);
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
	{
		batch->done[i] = batch->replaces[i] = false;
		batch->received[i] = RECEIVED_BEFORE;
		batch->fates[i] = FATE_UNWANTED;
		if (!is_wanted(batch->worker->subscription, &batch->messages[i]))
			continue;
		ids[n] = batch->messages[i].values[MESSAGE_EVENT_ID];
		numbers[n++] = i;
	}
	received_add_batch(received_consumer(batch), ids, n, fresh);
	for (int i = 0; i < n; i++)
	{
		batch->fates[numbers[i]] = fresh[i] ? FATE_RUN : FATE_REPEATED;
		if (fresh[i])
			batch->received[numbers[i]] = RECEIVED_NOW;
	}
}

/* Renews the entries of those that are to be processed again. */
static void
renew_entries(Batch *batch)
{
	Datum	   *ids = palloc(sizeof(Datum) * batch->n);
	Datum	   *times = palloc(sizeof(Datum) * batch->n);
	int		   *numbers = palloc(sizeof(int) * batch->n);
	bool	   *renewed = palloc0(sizeof(bool) * batch->n);
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
	{
		if (batch->fates[i] != FATE_REPEATED || !is_rerun(batch, i))
			continue;
		ids[n] = batch->messages[i].values[MESSAGE_EVENT_ID];
		times[n] = TimestampTzGetDatum(batch->partitions[i]->rerun_since);
		numbers[n++] = i;
	}
	store_receive_again(received_consumer(batch), ids, times, n, renewed);
	for (int i = 0; i < n; i++)
		if (renewed[i])
		{
			batch->fates[numbers[i]] = FATE_RUN;
			batch->received[numbers[i]] = RECEIVED_AGAIN;
		}
}

/* Drops those for which a row of inbox.message stands already. */
static void
drop_unprocessed(Batch *batch)
{
	for (int i = 0; i < batch->n && batch->stored; i++)
	{
		if (batch->fates[i] != FATE_RUN || batch->stored[i] == STORED_NOT)
			continue;
		if (batch->stored[i] == STORED_FAILED && is_rerun(batch, i))
			batch->replaces[i] = true;
		else
			batch->fates[i] = FATE_REPEATED;
	}
}

/*
 * Looks which messages of a batch inbox.message has, if there may be any.  Does so
 * in a transaction of its own, since the locks would keep old chunks from being
 * emptied for as long as handlers run.
 */
void
repeats_look(Batch *batch)
{
	batch->stored = NULL;
	if (batch->worker->has_unprocessed)
		batch->stored = unprocessed_find(batch->messages, batch->n);
}

/*
 * Decides which messages of a batch are to be processed, and notes that they
 * were received, in the transaction that is running.  Raises a serialization
 * failure when another transaction gets in between.
 */
void
repeats_drop(Batch *batch)
{
	add_entries(batch);
	renew_entries(batch);
	drop_unprocessed(batch);
}

/*
 * The transaction ends before the message of that number: takes back what was
 * noted about it and those behind it.
 */
void
repeats_end_before(Batch *batch, int end)
{
	Datum	   *added = palloc(sizeof(Datum) * batch->n);
	Datum	   *renewed = palloc(sizeof(Datum) * batch->n);
	int			nadded = 0;
	int			nrenewed = 0;

	for (int i = end; i < batch->end; i++)
	{
		if (batch->received[i] == RECEIVED_NOW)
			added[nadded++] = batch->messages[i].values[MESSAGE_EVENT_ID];
		if (batch->received[i] == RECEIVED_AGAIN)
			renewed[nrenewed++] = batch->messages[i].values[MESSAGE_EVENT_ID];
	}
	batch->end = end;
	store_unreceive(received_consumer(batch), added, nadded, renewed, nrenewed);
}
