/*-------------------------------------------------------------------------
 *
 * repeated_messages.c
 *	  What a batch need not process: what is not wanted, and what came before.
 *
 * A message came before when inbox.received has an entry of it.  The entry is
 * added in the transaction that processes the message.  When messages are
 * processed again (inbox.seek() with rerun), the entry is renewed: its time
 * tells which of several with the same id was the one.
 *
 * Of an event_id of a topic there is one row of inbox.message at most that waits
 * or has failed; or of a position, where ids do not tell messages or those that
 * are used twice are errors.  It stands for what comes again, however late.  When it has
 * failed and is to be processed again, the new one takes its place, unless it has
 * another content: then neither that nor an entry is its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/repeated_messages.h"

#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "inbox/batch/batch_table.h"
#include "inbox/batch/message_batch.h"
#include "inbox/batch/unprocessed_rows.h"
#include "inbox/message/identity_rules.h"
#include "inbox/message/message.h"
#include "inbox/message/message_identity.h"
#include "inbox/subscription/subscription.h"
#include "inbox/table/dedup.h"
#include "inbox/table/dedup_batch.h"
#include "inbox/table/short_wait.h"

/*
 * Is the message of a type that the subscription wants?  Where the type should
 * be known, and is not, it may be.
 */
bool
repeated_messages_is_wanted(const Subscription *subscription, const InboxMessage *message)
{
	char	   *type;

	if (subscription->event_types == NULL)
		return true;
	if (message->nulls[MESSAGE_EVENT_TYPE])
		return message->problem != NULL && message->problem->type_unknown;
	type = TextDatumGetCString(message->values[MESSAGE_EVENT_TYPE]);
	for (int i = 0; i < subscription->nevent_types; i++)
		if (strcmp(subscription->event_types[i], type) == 0)
			return true;
	return false;
}

/* Shall a message be processed again that was before? */
static bool
is_rerun(const Batch *batch, int i)
{
	return DatumGetInt64(batch->messages[i].values[MESSAGE_OFFSET]) <
		batch->partitions[i]->rerun_until;
}

/* Decides about a message by what inbox.received has of it. */
static void
judge(Batch *batch, int i)
{
	const IdentityRules *rules = &batch->worker->subscription->identity;
	ReceivedItem *item = &batch->items[i];

	batch->conflicts[i] = item->verdict == RECEIVED_CONFLICTING;
	if (item->verdict == RECEIVED_NEW ||
		(batch->conflicts[i] &&
		 message_identity_take_conflict(&batch->messages[i], rules, item)))
	{
		batch->fates[i] = FATE_RUN;
		batch->received[i] = RECEIVED_NOW;
	}
	else
		batch->fates[i] = FATE_REPEATED;
}

/*
 * Adds the entries of those that are wanted.  One whose id is that of a row with
 * another content gets none: it would keep the message of the row from its own.
 */
static void
add_entries(Batch *batch)
{
	const Subscription *subscription = batch->worker->subscription;
	IdentityConsumers consumers = {.subscription = subscription->name};
	ReceivedItem **items = palloc(sizeof(ReceivedItem *) * batch->n);
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
	{
		batch->done[i] = batch->replaces[i] = batch->conflicts[i] = false;
		batch->received[i] = RECEIVED_BEFORE;
		batch->fates[i] = FATE_UNWANTED;
		if (!repeated_messages_is_wanted(subscription, &batch->messages[i]))
			continue;
		batch->fates[i] = FATE_RUN;
		if (batch->stored && batch->stored[i] == STORED_OTHER)
		{
			batch->fates[i] = FATE_REPEATED;
			batch->conflicts[i] = true;
			continue;
		}
		if (!subscription->identity.remembered)
			continue;
		items[n] = &batch->items[i];
		message_identity_fill_item(items[n], &subscription->identity, &consumers,
								   &batch->messages[i]);
		/* It is not to be renewed by one that repeats it. */
		if (is_rerun(batch, i))
			items[n]->since = batch->partitions[i]->rerun_since;
		n++;
	}
	dedup_add_batch(items, n);
	for (int i = 0; i < n; i++)
		judge(batch, items[i] - batch->items);
}

/* Renews the entries of those that are to be processed again. */
static void
renew_entries(Batch *batch)
{
	const ReceivedItem **items = palloc(sizeof(ReceivedItem *) * batch->n);
	Datum	   *times = palloc(sizeof(Datum) * batch->n);
	bool	   *renewed = palloc0(sizeof(bool) * batch->n);
	int			n = 0;

	for (int i = 0; i < batch->n; i++)
	{
		/* The entry is that of another message, which is to be run again. */
		if (batch->fates[i] != FATE_REPEATED || batch->conflicts[i] ||
			!is_rerun(batch, i))
			continue;
		items[n] = &batch->items[i];
		times[n++] = TimestampTzGetDatum(batch->partitions[i]->rerun_since);
	}
	batch_table_receive_again(items, times, n, renewed);
	for (int i = 0; i < n; i++)
	{
		int			number = items[i] - batch->items;

		if (!renewed[i])
			continue;
		batch->fates[number] = FATE_RUN;
		batch->received[number] = RECEIVED_AGAIN;
	}
}

/*
 * Are rows of inbox.message those of messages with their position only?  Else of
 * all with their id, which is not always one for each message.
 */
static bool
rows_have_position(const Batch *batch)
{
	const IdentityRules *rules = &batch->worker->subscription->identity;

	return !rules->remembered || rules->conflicts_fail;
}

/* Drops those for which a row of inbox.message stands already. */
static void
drop_unprocessed(Batch *batch)
{
	bool		remembered = batch->worker->subscription->identity.remembered;

	for (int i = 0; i < batch->n && batch->stored; i++)
	{
		if (batch->fates[i] != FATE_RUN || batch->stored[i] == STORED_NOT)
			continue;
		if (batch->stored[i] == STORED_FAILED && (!remembered || is_rerun(batch, i)))
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
repeated_messages_look(Batch *batch)
{
	batch->stored = NULL;
	if (unprocessed_may_exist())
		batch->stored = unprocessed_find(batch->messages, batch->n,
										 rows_have_position(batch));
}

/*
 * Removes the rows of inbox.message whose place others take.  Raises a serialization
 * failure, and notes it in the batch, when somebody else has locked one and does not
 * end soon: who retries or discards messages has locked the subscription first.
 */
void
repeated_messages_remove_replaced(Batch *batch)
{
	int			nest_level;

	if (batch->stored == NULL)
		return;
	nest_level = short_wait_begin();
	PG_TRY();
	{
		batch->worker->wants_subscription = true;
		unprocessed_remove_failed(batch->messages, batch->replaces, batch->end,
								  rows_have_position(batch));
		batch->worker->wants_subscription = false;
	}
	PG_CATCH();
	{
		short_wait_failed(&batch->disturbed);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest_level);
}

/*
 * Decides which messages of a batch are to be processed, and notes that they
 * were received, in the transaction that is running.  Raises a serialization
 * failure when another transaction gets in between.
 */
void
repeated_messages_drop(Batch *batch)
{
	add_entries(batch);
	renew_entries(batch);
	drop_unprocessed(batch);
	for (int i = 0; i < batch->n; i++)
		if (batch->fates[i] == FATE_RUN && batch->messages[i].problem != NULL)
			batch->fates[i] = FATE_REJECT;
}

/*
 * The transaction ends before the message of that number: takes back what was
 * noted about it and those behind it.
 */
void
repeated_messages_end_before(Batch *batch, int end)
{
	const ReceivedItem **added = palloc(sizeof(ReceivedItem *) * batch->n);
	const ReceivedItem **renewed = palloc(sizeof(ReceivedItem *) * batch->n);
	int			nadded = 0;
	int			nrenewed = 0;

	for (int i = end; i < batch->end; i++)
	{
		if (batch->received[i] == RECEIVED_NOW)
			added[nadded++] = &batch->items[i];
		if (batch->received[i] == RECEIVED_AGAIN)
			renewed[nrenewed++] = &batch->items[i];
	}
	batch->end = end;
	batch_table_unreceive(added, nadded, renewed, nrenewed);
}
