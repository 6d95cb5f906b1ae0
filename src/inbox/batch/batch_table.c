/*-------------------------------------------------------------------------
 *
 * batch_table.c
 *	  What a batch writes beside the handler's effects.
 *
 * Messages go into the current chunk of inbox.message as COPY would put them
 * there: a batch at a time, without executor and routing.  A row that counts
 * as processed needs no entry in any index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/batch_table.h"

#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/saved_plan.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/subscription.h"
#include "inbox/table/dedup.h"
#include "inbox/table/ring.h"
#include "inbox/table/short_wait.h"

/* Rows that are handed to the table at a time. */
#define INSERT_ROWS 250

/*
 * Inserts messages into inbox.message.
 */
void
batch_table_messages(InboxMessage **messages, int n)
{
	int16		chunk = ring_current_chunk(RING_MESSAGE);
	Relation	heap = ring_open_chunk(RING_MESSAGE, chunk, RowExclusiveLock);
	EState	   *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slots[INSERT_ROWS] = {NULL};

	message_check_columns(RelationGetDescr(heap));
	InitResultRelInfo(target, heap, 0, NULL, 0);
	ExecOpenIndices(target, false);
	for (int done = 0; done < n; done += INSERT_ROWS)
	{
		int			rows = Min(n - done, INSERT_ROWS);

		for (int i = 0; i < rows; i++)
		{
			InboxMessage *message = messages[done + i];

			message_set(message, MESSAGE_CHUNK, Int16GetDatum(chunk));
			if (slots[i] == NULL)
				slots[i] = table_slot_create(heap, &estate->es_tupleTable);
			ExecClearTuple(slots[i]);
			memcpy(slots[i]->tts_values, message->values, sizeof(message->values));
			memcpy(slots[i]->tts_isnull, message->nulls, sizeof(message->nulls));
			ExecStoreVirtualTuple(slots[i]);
		}
		table_multi_insert(heap, slots, rows, GetCurrentCommandId(true), 0, NULL);
		for (int i = 0; i < rows; i++)
		{
			bool		conflict = false;

			compat_insert_index_tuples(target, slots[i], estate, &conflict);
			ResetPerTupleExprContext(estate);
		}
	}
	ExecCloseIndices(target);
	ExecResetTupleTable(estate->es_tupleTable, false);
	relation_close(heap, NoLock);
	MemoryContextSwitchTo(old);
	FreeExecutorState(estate);
}

/* Arrays of the texts of n items: consumers, former ones, and ids. */
static void
set_item_arrays(Datum *args, const ReceivedItem **items, int n)
{
	Datum	   *columns[3];

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		columns[0][i] = items[i]->consumer;
		columns[1][i] = items[i]->former;
		columns[2][i] = items[i]->event_id;
	}
	for (int c = 0; c < lengthof(columns); c++)
		args[c] = saved_plan_text_array(columns[c], n);
}

#define ITEM_ARRAYS "pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)"

/*
 * Renews the entries of n messages in inbox.received that are older than their
 * times.  renewed[i] becomes true for those that were; of several with one id,
 * for the first.
 */
void
batch_table_receive_again(const ReceivedItem **items, Datum *times, int n,
						  bool *renewed)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[4] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	TIMESTAMPTZARRAYOID};
	Datum		args[4];
	bool		isnull;

	if (n == 0)
		return;
	set_item_arrays(args, items, n);
	args[3] = PointerGetDatum(construct_array(times, n, TIMESTAMPTZOID,
											  sizeof(TimestampTz), true,
											  TYPALIGN_DOUBLE));
	saved_plan_execute(&plan,
					   "WITH again AS MATERIALIZED ("
					   " SELECT c.consumer, t.event_id, t.since, t.number"
					   " FROM ROWS FROM (" ITEM_ARRAYS ", pg_catalog.unnest($4))"
					   "  WITH ORDINALITY t (consumer, former, event_id, since, number)"
					   " CROSS JOIN LATERAL (VALUES (t.consumer), (t.former)) c (consumer)),"
					   " renewed AS ("
					   " UPDATE inbox.received r SET received_at = greatest(pg_catalog.now(), a.since)"
					   " FROM (SELECT consumer, event_id, pg_catalog.max(since) AS since"
					   "  FROM again GROUP BY consumer, event_id) a"
					   " WHERE r.consumer OPERATOR(pg_catalog.=) a.consumer"
					   " AND r.event_id OPERATOR(pg_catalog.=) a.event_id"
					   " AND r.received_at OPERATOR(pg_catalog.<) a.since"
					   " RETURNING r.consumer, r.event_id)"
					   " SELECT pg_catalog.min(a.number)::pg_catalog.int4"
					   " FROM again a JOIN renewed r"
					   " ON r.consumer OPERATOR(pg_catalog.=) a.consumer"
					   " AND r.event_id OPERATOR(pg_catalog.=) a.event_id"
					   " GROUP BY a.consumer, a.event_id",
					   4, types, args, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
		renewed[DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
											SPI_tuptable->tupdesc, 1, &isnull)) - 1] = true;
}

/*
 * Takes back what was noted about messages to which the transaction does not
 * come: that they were received, or received again.
 */
void
batch_table_unreceive(const ReceivedItem **added, int nadded,
					  const ReceivedItem **renewed, int nrenewed)
{
	static SPIPlanPtr delete_plan = NULL;
	static SPIPlanPtr update_plan = NULL;
	Oid			types[3] = {TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID};
	Datum		args[3];

	if (nadded > 0)
	{
		set_item_arrays(args, added, nadded);
		saved_plan_execute(&delete_plan,
						   "DELETE FROM inbox.received r"
						   " USING ROWS FROM (" ITEM_ARRAYS ") a (consumer, former, event_id)"
						   " WHERE r.consumer OPERATOR(pg_catalog.=) a.consumer"
						   " AND r.event_id OPERATOR(pg_catalog.=) a.event_id",
						   3, types, args, NULL);
	}
	if (nrenewed > 0)
	{
		set_item_arrays(args, renewed, nrenewed);
		saved_plan_execute(&update_plan,
						   "UPDATE inbox.received r SET received_at = '-infinity'"
						   " FROM ROWS FROM (" ITEM_ARRAYS ") a (consumer, former, event_id)"
						   " WHERE r.consumer OPERATOR(pg_catalog.=) ANY (ARRAY[a.consumer, a.former])"
						   " AND r.event_id OPERATOR(pg_catalog.=) a.event_id",
						   3, types, args, NULL);
	}
}

/*
 * Stops the subscription at a message that failed for good.  Raises an error
 * when another worker has just stopped it at another message: this one shall
 * not have failed then, but be tried again when the subscription goes on.  And a
 * serialization failure, with *disturbed, when somebody else has the subscription
 * locked, as position_move() does of positions.
 */
void
batch_table_stop(InboxWorker *worker, const InboxMessage *message,
				 volatile bool *disturbed)
{
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		args[3] = {message->values[MESSAGE_SUBSCRIPTION],
		message->values[MESSAGE_EVENT_ID],
	message->values[MESSAGE_TOPIC]};

	int			nest_level = short_wait_begin();

	PG_TRY();
	{
		worker->wants_subscription = true;
		if (SPI_execute_with_args("UPDATE inbox.subscription SET stopped_by = $2, stopped_topic = $3"
								  " WHERE name OPERATOR(pg_catalog.=) $1"
								  " AND stopped_by IS NULL",
								  3, types, args, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not stop a subscription");
		worker->wants_subscription = false;
	}
	PG_CATCH();
	{
		short_wait_failed(disturbed);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest_level);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another worker has stopped the subscription")));
}

/*
 * Pause after so many attempts, in ms: doubles, to a minute.
 */
int64
batch_table_pause_ms(const Subscription *subscription, int attempts)
{
	int64		pause = subscription->backoff_ms;

	for (int i = 1; i < attempts && pause < 60000; i++)
		pause *= 2;
	return Min(pause, Max(subscription->backoff_ms, 60000));
}

/*
 * Sets in a message that it has failed for good by the problem that it has,
 * though no handler has had it.
 */
void
batch_table_reject(InboxMessage *message)
{
	message_set_text(message, MESSAGE_STATUS, "failed");
	message_set_text(message, MESSAGE_ERROR, message->problem->message);
	message_set_text(message, MESSAGE_ERROR_SQLSTATE,
					 unpack_sql_state(message->problem->sqlstate));
	message_set_text(message, MESSAGE_ERROR_CONTEXT,
					 message->problem->lacks ? MESSAGE_LACK_CONTEXT : NULL);
	message_set(message, MESSAGE_ERROR_AT,
				TimestampTzGetDatum(GetCurrentTimestamp()));
	message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = true;
}

/*
 * Sets in a message that the handler failed, or may fail: one more attempt,
 * why, and what comes next.
 */
void
batch_table_fail(InboxWorker *worker, InboxMessage *message,
				 const HandlerFailure *failure)
{
	Subscription *subscription = worker->subscription;
	int			attempts = DatumGetInt32(message->values[MESSAGE_ATTEMPTS]) + 1;
	bool		final = attempts >= subscription->max_attempts;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = TimestampTzPlusMilliseconds(now,
												   batch_table_pause_ms(subscription, attempts));

	message_set(message, MESSAGE_ATTEMPTS, Int32GetDatum(attempts));
	message_set_text(message, MESSAGE_STATUS, final ? "failed" : "pending");
	message_set_text(message, MESSAGE_ERROR, failure->message);
	message_set_text(message, MESSAGE_ERROR_SQLSTATE,
					 unpack_sql_state(failure->sqlstate));
	message_set_text(message, MESSAGE_ERROR_CONTEXT, failure->context);
	message_set(message, MESSAGE_ERROR_AT, TimestampTzGetDatum(now));
	message_set(message, MESSAGE_NEXT_ATTEMPT_AT, TimestampTzGetDatum(next));
	message->nulls[MESSAGE_NEXT_ATTEMPT_AT] = final;
}
