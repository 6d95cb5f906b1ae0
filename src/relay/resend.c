/*-------------------------------------------------------------------------
 *
 * resend.c
 *	  Sends dead letters again, and events that waited behind one.
 *
 * outbox.retry() marks dead letters.  Between two rounds of live traffic the
 * relay sends a batch of them, out of outbox.event, in the order in which they
 * were refused.  Those that Kafka takes are dead letters no more, the others
 * have failed once again.
 *
 * When nothing is in front of a held key any more, because the dead letter was
 * sent or discarded, those who wait are sent in batches, in order.  New events
 * of the key still go to the end of the queue, until it is empty.
 *
 * A batch is read by one transaction, and what has become of it is stored by
 * another: none is open while events are sent, which may take as long as Kafka
 * is away.  A crash between Kafka's acknowledgement and the second one makes a
 * batch come twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/deadletter.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/worker.h"
#include "relay/decode.h"
#include "relay/ending.h"
#include "relay/event_batch.h"
#include "relay/exactly_once.h"

/* The columns are those of EventColumn, in their order.  One more
 * follows: whether it is a replay. */
#define EVENT_COLUMNS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.home"

#define SAME_EVENT \
	" JOIN outbox.event e ON e.id OPERATOR(pg_catalog.=) d.id" \
	" AND e.chunk OPERATOR(pg_catalog.=) d.chunk" \
	" AND e.home OPERATOR(pg_catalog.=) d.home"

/* Rows of a topic and key, by the index, which has no room for long keys. */
#define OF_KEY(topic, key) \
	" d.topic OPERATOR(pg_catalog.=) " topic \
	" AND pg_catalog.hashtextextended(d.key, 0::pg_catalog.int8)" \
	"     OPERATOR(pg_catalog.=)" \
	"     pg_catalog.hashtextextended(" key ", 0::pg_catalog.int8)" \
	" AND d.key OPERATOR(pg_catalog.=) " key

#define RETRIED_EVENTS EVENT_COLUMNS ", d.replay FROM outbox.dead_letter d" \
	SAME_EVENT " WHERE d.state OPERATOR(pg_catalog.=) 'retrying'" \
	" ORDER BY d.position LIMIT $1"

#define WAITING_EVENTS EVENT_COLUMNS ", false FROM outbox.held_event d" \
	SAME_EVENT " WHERE" OF_KEY("$2", "$3") " ORDER BY d.position LIMIT $1"

#define FORGET_RETRIED \
	"DELETE FROM outbox.dead_letter d" \
	" WHERE d.id OPERATOR(pg_catalog.=) ANY ($1)" \
	" AND d.state OPERATOR(pg_catalog.=) 'retrying'"

#define FORGET_WAITING \
	"DELETE FROM outbox.held_event d" \
	" WHERE d.id OPERATOR(pg_catalog.=) ANY ($1)"

/* The row in outbox.event is gone: there is nothing left to wait for. */
#define FORGET_ORPHANS \
	"DELETE FROM outbox.held_event d WHERE" OF_KEY("$1", "$2")

/* May there be something to send?  Set when somebody asks, and at the start. */
static bool may_have_work = true;

/* May keys have become free?  Likewise. */
static bool keys_may_be_free = true;

/*
 * Somebody may have called outbox.retry() or outbox.discard().
 */
void
resend_look(void)
{
	may_have_work = true;
	keys_may_be_free = true;
}

static void
run(const char *query, int nargs, Oid *types, Datum *args, int expected)
{
	if (SPI_execute_with_args(query, nargs, types, args, NULL, false, 0) != expected)
		elog(ERROR, "query failed: %s", query);
}

/* The batch that is sent, and which events of it were refused again. */
static EventBatch *batch = NULL;
static bool refused[BATCH_ROOM];

/* Takes the rows of the last query.  Needs SPI. */
static void
take_rows(void)
{
	bool		isnull;

	if (batch == NULL)
		batch = event_batch_create(TopMemoryContext);
	event_batch_reset(batch);
	memset(refused, 0, sizeof(refused));
	for (uint64 row = 0; row < SPI_processed && event_batch_has_room(batch); row++)
		event_batch_add(batch, row)->replay =
			DatumGetBool(SPI_getbinval(SPI_tuptable->vals[row],
									   SPI_tuptable->tupdesc,
									   EVENT_NCOLUMNS + 1, &isnull));
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
	sender_event(relay, &batch->events[i], &commit);
	refused[i] = relay->set_aside != set_aside;
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * Sends the batch and waits until Kafka has taken or refused each.  With a held
 * key, stops behind one that blocks it.  Returns how many were dealt with.
 */
static uint64
send_batch(Relay *relay, ResendKind kind, const char *topic, Slice key)
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
			   !(kind == RESEND_HELD && heldkeys_blocked(topic, key)))
			send_event(relay, nrows++, context);
	} while (!sender_finish(relay));
	deadletter_set_resend(RESEND_NONE);
	ledger_close_commit(relay->ledger, decode_position());
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

/*
 * The relay before this one ended with an error, perhaps because it could not
 * forget what it had sent.  Then nothing is sent before that can be done, or
 * each relay would send it again.
 */
static void
prove(const char *forget)
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
static void
settle(Relay *relay, uint64 nrows, const char *forget)
{
	Oid			types[1] = {INT8ARRAYOID};
	Datum		args[1];

	if (relay->exact)
		exactly_once_commit(relay, exactly_once_position(relay));
	worker_begin_sql();
	deadletter_write(relay);
	args[0] = delivered_ids(nrows);
	run(forget, 1, types, args, SPI_OK_DELETE);
	worker_commit_sql();
	if (relay->exact)
		XLogFlush(XactLastCommitEnd);
	ending_batch_done();
}

/*
 * Sends dead letters that are to be sent again.  Returns whether there were
 * any.
 */
static bool
send_retried(Relay *relay)
{
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {Int64GetDatum(ending_batch_events())};
	Slice		none = SLICE_NULL;

	worker_begin_sql();
	run(RETRIED_EVENTS, 1, types, args, SPI_OK_SELECT);
	take_rows();
	worker_commit_sql();
	if (batch->size == 0)
		return false;
	prove(FORGET_RETRIED);
	settle(relay, send_batch(relay, RESEND_FAILED, NULL, none), FORGET_RETRIED);
	keys_may_be_free = true;
	return true;
}

/* Finds out which keys are free.  Needs SPI. */
static void
look_at_keys(void)
{
	run("SELECT topic, key FROM outbox.dead_letter WHERE holds", 0, NULL, NULL,
		SPI_OK_SELECT);
	heldkeys_unblock_all();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Slice		key;

		key.data = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		key.len = strlen(key.data);
		heldkeys_block(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1),
					   key);
	}
	keys_may_be_free = false;
}

/*
 * Reads events that waited for a key and need not wait any more.  When there
 * are none left, the key is not held any more.
 */
static void
read_waiting(const char *topic, Slice key)
{
	Oid			types[3] = {INT8OID, TEXTOID, TEXTOID};
	Datum		args[3] = {Int64GetDatum(ending_batch_events())};

	worker_begin_sql();
	args[1] = CStringGetTextDatum(topic);
	args[2] = PointerGetDatum(cstring_to_text_with_len(key.data, key.len));
	run(WAITING_EVENTS, 3, types, args, SPI_OK_SELECT);
	take_rows();
	if (batch->size == 0)
	{
		run(FORGET_ORPHANS, 2, types + 1, args + 1, SPI_OK_DELETE);
		heldkeys_remove(topic, key);
	}
	worker_commit_sql();
}

/*
 * Sends events that waited and need not wait any more.  Returns whether there
 * may be more.
 */
static bool
send_waiting(Relay *relay)
{
	const char *topic;
	Slice		key;

	if (keys_may_be_free)
	{
		worker_begin_sql();
		look_at_keys();
		worker_commit_sql();
	}
	if (!heldkeys_next_free(&topic, &key))
		return false;
	read_waiting(topic, key);
	if (batch->size > 0)
	{
		prove(FORGET_WAITING);
		settle(relay, send_batch(relay, RESEND_HELD, topic, key), FORGET_WAITING);
	}
	return true;
}

/*
 * Sends a batch of events that were set aside and are to be sent now, if there
 * are any.  What is in flight is waited for before.  Returns whether there may
 * be more.  Call between records.
 */
bool
resend_step(Relay *relay)
{
	if (!may_have_work || !relay->connected)
		return false;

	sender_drain(relay);
	deadletter_store(relay);
	may_have_work = send_retried(relay) || send_waiting(relay);
	return may_have_work;
}
