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
 * A crash between Kafka's acknowledgement and the end of the transaction makes
 * a batch come twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/deadletter.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/worker.h"
#include "relay/decode.h"
#include "relay/exactly_once.h"
#include "relay/settings.h"

#define BATCH_EVENTS 500

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

/* Sends one row of a query. */
static void
send_row(Relay *relay, HeapTuple tuple, TupleDesc desc, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Commit		commit = {0};
	Event		event;
	bool		isnull;

	event_from_tuple(&event, tuple, desc);
	event.replay = DatumGetBool(SPI_getbinval(tuple, desc, EVENT_NCOLUMNS + 1,
											  &isnull));
	commit.time = event.created_at; /* that of the commit is not known */
	sender_event(relay, &event, &commit);
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * Sends rows of a query and waits until Kafka has taken or refused each.  With
 * a held key, stops behind one that blocks it.  Returns how many were dealt
 * with.
 */
static uint64
send_batch(Relay *relay, ResendKind kind, SPITupleTable *rows, uint64 total,
		   const char *topic, Slice key)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox resend",
												  ALLOCSET_DEFAULT_SIZES);
	uint64		nrows;

	deadletter_set_resend(kind);
	do
	{
		nrows = sender_begin(relay);
		while (nrows < total && !relay->broken &&
			   !(kind == RESEND_HELD && heldkeys_blocked(topic, key)))
		{
			send_row(relay, rows->vals[nrows], rows->tupdesc, context);
			nrows++;
		}
	} while (!sender_finish(relay));
	deadletter_set_resend(RESEND_NONE);
	ledger_close_commit(relay->ledger, decode_position());
	MemoryContextDelete(context);
	return nrows;
}

/* The ids of the first rows of a query's result, as an array. */
static Datum
id_array(SPITupleTable *rows, uint64 nrows)
{
	Datum	   *ids = palloc(nrows * sizeof(Datum));
	bool		isnull;

	for (uint64 i = 0; i < nrows; i++)
		ids[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, EVENT_ID + 1,
							   &isnull);
	return PointerGetDatum(construct_array(ids, nrows, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/*
 * Sends dead letters that are to be sent again.  Returns whether there were
 * any.
 */
static bool
send_retried(Relay *relay)
{
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {Int64GetDatum(BATCH_EVENTS)};
	SPITupleTable *rows;
	uint64		nrows;
	Slice		none = SLICE_NULL;

	run(RETRIED_EVENTS, 1, types, args, SPI_OK_SELECT);
	rows = SPI_tuptable;
	nrows = SPI_processed;
	if (nrows == 0)
		return false;
	types[0] = INT8ARRAYOID;
	args[0] = id_array(rows, nrows);
	if (relay->cautious)
		worker_prove_sql(FORGET_RETRIED, 1, types, args);
	nrows = send_batch(relay, RESEND_FAILED, rows, nrows, NULL, none);
	/* First those that failed again: they are not to be forgotten. */
	deadletter_write(relay);
	args[0] = id_array(rows, nrows);
	run(FORGET_RETRIED, 1, types, args, SPI_OK_DELETE);
	keys_may_be_free = true;
	return true;
}

/* Finds out which keys are free. */
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
 * Sends events that waited and need not wait any more.  Returns whether there
 * may be more.
 */
static bool
send_waiting(Relay *relay)
{
	const char *topic;
	Slice		key;
	Oid			types[3] = {INT8OID, TEXTOID, TEXTOID};
	Datum		args[3] = {Int64GetDatum(BATCH_EVENTS)};
	SPITupleTable *rows;
	uint64		nrows;

	if (keys_may_be_free)
		look_at_keys();
	if (!heldkeys_next_free(&topic, &key))
		return false;
	args[1] = CStringGetTextDatum(topic);
	args[2] = PointerGetDatum(cstring_to_text_with_len(key.data, key.len));
	run(WAITING_EVENTS, 3, types, args, SPI_OK_SELECT);
	rows = SPI_tuptable;
	nrows = SPI_processed;
	if (nrows == 0)
	{
		run(FORGET_ORPHANS, 2, types + 1, args + 1, SPI_OK_DELETE);
		heldkeys_remove(topic, key);
		return true;
	}
	types[0] = INT8ARRAYOID;
	args[0] = id_array(rows, nrows);
	if (relay->cautious)
		worker_prove_sql(FORGET_WAITING, 1, types, args);
	nrows = send_batch(relay, RESEND_HELD, rows, nrows, topic, key);
	deadletter_write(relay);
	args[0] = id_array(rows, nrows);
	run(FORGET_WAITING, 1, types, args, SPI_OK_DELETE);
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
	worker_begin_sql();
	may_have_work = send_retried(relay) || send_waiting(relay);
	if (relay->exact)
		exactly_once_commit(relay, exactly_once_position(relay));
	worker_commit_sql();
	return may_have_work;
}
