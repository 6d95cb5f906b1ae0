/*-------------------------------------------------------------------------
 *
 * retry_batch.c
 *	  A batch of events that were set aside and are sent again.
 *
 * A batch is read by one transaction, and what has become of it is stored by
 * another: none is open while events are sent, which may take as long as Kafka
 * is away.  A crash between Kafka's acknowledgement and the second one makes a
 * batch come twice; but where deliveries are exact, the record in the progress
 * topic tells of it, and the next relay stores it (relay_takeover.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/retry_batch.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/memutils.h"

#include "core/background_worker.h"
#include "core/guc.h"
#include "core/slice.h"
#include "event/event.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/send_sequence.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/stop_and_wait.h"
#include "relay/process/ending.h"
#include "relay/state/commit.h"
#include "relay/state/event_batch.h"
#include "relay/state/held_keys.h"
#include "relay/state/ledger.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"
#include "relay/state/set_aside.h"
#include "relay/wal/slot_decoder.h"

/*
 * The batch that is sent, which events of it were refused again, and their
 * positions in the table where they wait.
 */
static EventBatch *batch = NULL;
static bool refused[BATCH_ROOM];
static uint64 positions[BATCH_ROOM];

StaticAssertDecl(BATCH_ROOM <= MAX_RESENT, "a batch is told by one record");

/*
 * Takes the rows of the last query, which has the columns of EVENT_COLUMNS,
 * whether it is a replay, and the position.  Needs SPI.
 */
void
retry_batch_take_rows(void)
{
	bool		isnull;

	if (batch == NULL)
		batch = event_batch_create(TopMemoryContext);
	event_batch_reset(batch);
	memset(refused, 0, sizeof(refused));
	for (uint64 row = 0; row < SPI_processed && event_batch_has_room(batch); row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		positions[row] = DatumGetInt64(SPI_getbinval(tuple, desc,
													 EVENT_NCOLUMNS + 2, &isnull));
		event_batch_add(batch, row)->replay =
			DatumGetBool(SPI_getbinval(tuple, desc, EVENT_NCOLUMNS + 1, &isnull));
	}
}

/* Sends one event of the batch. */
static void
send_event(Relay *relay, uint64 i, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Commit		commit = {0};
	uint64		set_aside = relay->set_aside;

	commit.time = batch->events[i].created_at;	/* that of the commit is not
												 * known */
	commit.send_time = true;
	sender_event(relay, &batch->events[i], &commit);
	refused[i] = relay->set_aside != set_aside;
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * How many events there are in the batch.
 */
int
retry_batch_size(void)
{
	return batch->size;
}

/* Has something come up that keeps the rest from being sent now? */
static bool
is_blocked(const Relay *relay, ResendKind kind, const char *topic, Slice key)
{
	if (kind == RESEND_HELD)
		return held_keys_blocked(topic, key);
	return kind == RESEND_PARKED && relay->releasing == NULL;
}

/*
 * May the event be refused, so that what is in front of it in the Kafka
 * transaction would not be committed?  Then an event of its key would come
 * behind it.
 */
static bool
may_be_refused(Relay *relay, const Event *event)
{
	return relay->exact && outbox_on_dead_letter == DEAD_LETTER_HOLD &&
		(relay->alone_left > 0 || stop_and_wait_wanted(relay, event));
}

/*
 * Sends the batch and waits until Kafka has taken or refused each.  With a held
 * key, stops behind one that blocks it, and with a parked topic when that
 * cannot be written after all.  Returns how many were dealt with.
 */
uint64
retry_batch_send(Relay *relay, ResendKind kind, const char *topic, Slice key)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox resend",
												  ALLOCSET_DEFAULT_SIZES);
	uint64		nrows;

	deadletter_set_resend(kind);
	do
	{
		nrows = sender_begin(relay);
		while (nrows < batch->size && !relay->broken &&
			   !is_blocked(relay, kind, topic, key) &&
			   !(nrows > 0 && may_be_refused(relay, &batch->events[nrows])))
			send_event(relay, nrows++, context);
	} while (!sender_finish(relay));
	deadletter_set_resend(RESEND_NONE);
	ledger_close_commit(relay->ledger, slot_decoder_position());
	MemoryContextDelete(context);
	return nrows;
}

/* The ids of those of the first events that Kafka has taken, as an array. */
static Datum
delivered_ids(uint64 nrows)
{
	Datum	   *ids = palloc(nrows * sizeof(Datum));
	int			count = 0;

	for (uint64 i = 0; i < nrows; i++)
		if (!refused[i])
			ids[count++] = Int64GetDatum(batch->events[i].id);
	return PointerGetDatum(construct_array(ids, count, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Commits to Kafka what was sent, with a record of the positions. */
static void
commit(Relay *relay, ResendKind kind, uint64 nrows)
{
	PublishedSet *set = &relay->exact->set;
	ResentEvents *resent = kind == RESEND_FAILED ? &set->retried : &set->released;
	uint64		delivered[BATCH_ROOM];

	resent->positions = delivered;
	for (uint64 i = 0; i < nrows; i++)
		if (!refused[i])
			delivered[resent->size++] = positions[i];
	exactly_once_commit(relay, exactly_once_position(relay));
	memset(resent, 0, sizeof(*resent));
}

/*
 * The relay before this one ended with an error, perhaps because it could not
 * forget what it had sent.  Then nothing is sent before that can be done, or
 * each relay would send it again.
 */
void
retry_batch_prove(const char *forget)
{
	Oid			types[1] = {INT8ARRAYOID};
	Datum		args[1];

	if (!ending_is_cautious())
		return;
	worker_begin_sql();
	args[0] = delivered_ids(batch->size);
	worker_prove_sql(forget, 1, types, args);
	worker_commit_sql();
}

/*
 * Stores what has become of the first events of the batch: those that Kafka
 * has taken are forgotten by a statement, those that it refused have failed
 * again.  Where deliveries are exact, Kafka has taken them once that is
 * committed.
 */
void
retry_batch_settle(Relay *relay, ResendKind kind, uint64 nrows, const char *forget)
{
	Oid			types[1] = {INT8ARRAYOID};
	Datum		args[1];

	if (relay->exact)
		commit(relay, kind, nrows);
	worker_begin_sql();
	dead_letters_write(relay);
	args[0] = delivered_ids(nrows);
	worker_run_sql(forget, 1, types, args, SPI_OK_DELETE);
	/* It was too late to discard them. */
	worker_run_sql("DELETE FROM outbox.discarded_event"
				   " WHERE id OPERATOR(pg_catalog.=) ANY ($1)",
				   1, types, args, SPI_OK_DELETE);
	worker_commit_sql();
	if (relay->exact)
		XLogFlush(XactLastCommitEnd);
	ending_batch_done();
}
