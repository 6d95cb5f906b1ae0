/*-------------------------------------------------------------------------
 *
 * unprocessed_rows.c
 *	  The rows of inbox.message that wait or have failed.
 *
 * Of an event_id of a topic a subscription has one such row at most, unless
 * messages that share one are known to be others; then one of a position.  Since
 * inbox.received forgets after inbox.dedupe_window, and such rows stay as long
 * as nobody has dealt with them, they are looked at too when a message comes.
 * That costs a query for each batch, so it is done only while there are any: the
 * worker notes those that it stores, and looks now and then for those of others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/unprocessed_rows.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/batch/saved_plan.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/table/run_as_owner.h"

/* Between two looks for what other workers have stored. */
#define LOOK_MS 5000

/* May there be any, and when to look, by monotonic_now()? */
static bool may_exist = false;
static TimestampTz look_at = 0;

/*
 * Notes that this worker stores such a row.
 */
void
unprocessed_note(void)
{
	may_exist = true;
}

/*
 * May the subscription have any such rows, as far as this worker knows?
 */
bool
unprocessed_may_exist(void)
{
	return may_exist;
}

/*
 * Finds out, now and then, whether the subscription has any such rows.  Runs a
 * transaction of its own.
 */
void
unprocessed_look(InboxWorker *worker)
{
	Oid			types[1] = {TEXTOID};
	Datum		args[1];
	TimestampTz now = monotonic_now();
	int			nest_level;

	if (now < look_at)
		return;
	look_at = TimestampTzPlusMilliseconds(now, LOOK_MS);
	worker_begin_sql();
	nest_level = NewGUCNestLevel();
	owner_sql_insist_on_indexes();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	if (SPI_execute_with_args("SELECT FROM inbox.message"
							  " WHERE subscription OPERATOR(pg_catalog.=) $1"
							  " AND status OPERATOR(pg_catalog.<>) 'processed' LIMIT 1",
							  1, types, args, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read inbox.message");
	may_exist = SPI_processed > 0;
	AtEOXact_GUC(true, nest_level);
	worker_commit_sql();
}

/* Are two texts, or values of type bytea, the same, byte for byte? */
static bool
same_bytes(Datum a, Datum b)
{
	struct varlena *x = PG_DETOAST_DATUM_PACKED(a);
	struct varlena *y = PG_DETOAST_DATUM_PACKED(b);

	return VARSIZE_ANY_EXHDR(x) == VARSIZE_ANY_EXHDR(y) &&
		memcmp(VARDATA_ANY(x), VARDATA_ANY(y), VARSIZE_ANY_EXHDR(x)) == 0;
}

/* A row of inbox.message, as far as it tells whose it is. */
typedef struct StoredRow
{
	Datum		topic;
	Datum		event_id;
	int			partition;
	int64		offset;
	Datum		content[2];		/* key and payload */
	bool		nulls[2];
	StoredStatus status;
} StoredRow;

/* Has a row the position of a message? */
static bool
has_position(const StoredRow *row, const InboxMessage *message)
{
	return DatumGetInt32(message->values[MESSAGE_PARTITION]) == row->partition &&
		DatumGetInt64(message->values[MESSAGE_OFFSET]) == row->offset;
}

/* Has it the content of a message? */
static bool
has_content(const StoredRow *row, const InboxMessage *message)
{
	static const MessageColumn columns[] = {MESSAGE_KEY, MESSAGE_PAYLOAD};

	for (int i = 0; i < lengthof(columns); i++)
		if (row->nulls[i] != message->nulls[columns[i]] ||
			(!row->nulls[i] &&
			 !same_bytes(row->content[i], message->values[columns[i]])))
			return false;
	return true;
}

/*
 * Notes a row, for all messages that come under its id, or that one only which
 * has its position.
 */
static void
note_row(StoredStatus *found, const InboxMessage *messages, int n,
		 const StoredRow *row, bool by_position)
{
	for (int i = 0; i < n; i++)
	{
		const Datum *values = messages[i].values;

		if (!same_bytes(values[MESSAGE_EVENT_ID], row->event_id) ||
			!same_bytes(values[MESSAGE_TOPIC], row->topic))
			continue;
		if (has_position(row, &messages[i]))
			found[i] = row->status;
		else if (!by_position)
			found[i] = has_content(row, &messages[i]) ? row->status :
				STORED_OTHER;
	}
}

/*
 * What inbox.message has of n messages of a subscription, in the current memory
 * context: of each id, or of each position.  Runs a transaction of its own.
 */
StoredStatus *
unprocessed_find(const InboxMessage *messages, int n, bool by_position)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[2] = {TEXTOID, TEXTARRAYOID};
	Datum		args[2];
	Datum	   *ids = palloc(sizeof(Datum) * n);
	StoredStatus *found = palloc0(sizeof(StoredStatus) * Max(n, 1));
	MemoryContext context = CurrentMemoryContext;
	bool		isnull;

	if (n == 0)
		return found;
	for (int i = 0; i < n; i++)
		ids[i] = messages[i].values[MESSAGE_EVENT_ID];
	worker_begin_sql();
	args[0] = messages[0].values[MESSAGE_SUBSCRIPTION];
	args[1] = saved_plan_text_array(ids, n);
	saved_plan_execute(&plan,
					   "SELECT topic, event_id, partition, \"offset\","
					   " status OPERATOR(pg_catalog.=) 'failed', key, payload"
					   " FROM inbox.message"
					   " WHERE subscription OPERATOR(pg_catalog.=) $1"
					   " AND status OPERATOR(pg_catalog.=) ANY (ARRAY['failed', 'pending'])"
					   " AND event_id OPERATOR(pg_catalog.=) ANY ($2)"
					   " AND status OPERATOR(pg_catalog.<>) 'processed'",
					   2, types, args, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		StoredRow	row = {
			.topic = SPI_getbinval(tuple, desc, 1, &isnull),
			.event_id = SPI_getbinval(tuple, desc, 2, &isnull),
			.partition = DatumGetInt32(SPI_getbinval(tuple, desc, 3, &isnull)),
			.offset = DatumGetInt64(SPI_getbinval(tuple, desc, 4, &isnull)),
			.status = DatumGetBool(SPI_getbinval(tuple, desc, 5, &isnull)) ?
			STORED_FAILED : STORED_PENDING
		};

		for (int c = 0; c < lengthof(row.content); c++)
			row.content[c] = SPI_getbinval(tuple, desc, 6 + c, &row.nulls[c]);
		note_row(found, messages, n, &row, by_position);
	}
	worker_commit_sql();
	MemoryContextSwitchTo(context);
	return found;
}

/*
 * Removes the rows of those of n messages that are chosen, which have failed: of
 * their ids, or of their positions only.  Raises a serialization failure when one
 * has not failed any more.
 */
void
unprocessed_remove_failed(const InboxMessage *messages, const bool *chosen,
						  int n, bool by_position)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[6] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
	INT8ARRAYOID, BOOLOID};
	Datum		args[6];
	Datum	   *ids = palloc(sizeof(Datum) * n);
	Datum	   *topics = palloc(sizeof(Datum) * n);
	Datum	   *partitions = palloc(sizeof(Datum) * n);
	Datum	   *offsets = palloc(sizeof(Datum) * n);
	int			nchosen = 0;

	for (int i = 0; i < n; i++)
	{
		if (!chosen[i])
			continue;
		ids[nchosen] = messages[i].values[MESSAGE_EVENT_ID];
		topics[nchosen] = messages[i].values[MESSAGE_TOPIC];
		partitions[nchosen] = messages[i].values[MESSAGE_PARTITION];
		offsets[nchosen++] = messages[i].values[MESSAGE_OFFSET];
	}
	if (nchosen == 0)
		return;
	args[0] = messages[0].values[MESSAGE_SUBSCRIPTION];
	args[1] = saved_plan_text_array(ids, nchosen);
	args[2] = saved_plan_text_array(topics, nchosen);
	args[3] = PointerGetDatum(construct_array(partitions, nchosen, INT4OID,
											  sizeof(int32), true, TYPALIGN_INT));
	args[4] = PointerGetDatum(construct_array(offsets, nchosen, INT8OID,
											  sizeof(int64), true, TYPALIGN_DOUBLE));
	args[5] = BoolGetDatum(by_position);
	saved_plan_execute(&plan,
					   "DELETE FROM inbox.message m"
					   " USING ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3),"
					   "  pg_catalog.unnest($4), pg_catalog.unnest($5)) c (event_id, topic, partition, \"offset\")"
					   " WHERE m.subscription OPERATOR(pg_catalog.=) $1"
					   " AND m.status OPERATOR(pg_catalog.=) 'failed'"
					   " AND m.event_id OPERATOR(pg_catalog.=) c.event_id"
					   " AND m.topic OPERATOR(pg_catalog.=) c.topic"
					   " AND (NOT $6 OR m.partition OPERATOR(pg_catalog.=) c.partition"
					   "  AND m.\"offset\" OPERATOR(pg_catalog.=) c.\"offset\")",
					   6, types, args, NULL);
	if (SPI_processed < nchosen)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a message that had failed was changed by somebody else")));
}

/*
 * Writes what became of a message that was tried again, and what it is, which
 * may have been found out only now.  Returns false when it
 * is not there any more: its own handler has discarded it, since nobody else
 * could, while it was locked.
 */
bool
unprocessed_update(InboxWorker *worker, InboxMessage *message)
{
	static SPIPlanPtr update_plan = NULL;
	static SPIPlanPtr delete_plan = NULL;
	static const MessageColumn columns[] = {
		MESSAGE_SUBSCRIPTION, MESSAGE_TOPIC, MESSAGE_PARTITION, MESSAGE_OFFSET,
		MESSAGE_STATUS, MESSAGE_ATTEMPTS, MESSAGE_ERROR, MESSAGE_ERROR_SQLSTATE,
		MESSAGE_ERROR_CONTEXT, MESSAGE_ERROR_AT, MESSAGE_NEXT_ATTEMPT_AT,
		MESSAGE_PROCESSED_AT, MESSAGE_EVENT_ID, MESSAGE_EVENT_TYPE,
		MESSAGE_AGGREGATE_ID
	};
	Oid			types[] = {TEXTOID, TEXTOID, INT4OID, INT8OID, TEXTOID, INT4OID,
		TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
	TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		args[lengthof(columns) + 1];
	char		nulls[lengthof(columns) + 1];

	for (int i = 0; i < lengthof(columns); i++)
	{
		args[i] = message->values[columns[i]];
		nulls[i] = message->nulls[columns[i]] ? 'n' : ' ';
	}
	args[lengthof(columns)] = message->stored_id;
	nulls[lengthof(columns)] = ' ';
	if (!message->nulls[MESSAGE_PROCESSED_AT] && !worker->subscription->keeps)
		saved_plan_execute(&delete_plan,
						   "DELETE FROM inbox.message"
						   " WHERE subscription OPERATOR(pg_catalog.=) $1"
						   " AND topic OPERATOR(pg_catalog.=) $2"
						   " AND partition OPERATOR(pg_catalog.=) $3"
						   " AND \"offset\" OPERATOR(pg_catalog.=) $4"
						   " AND status OPERATOR(pg_catalog.=) 'pending'"
						   " AND event_id OPERATOR(pg_catalog.=) $16",
						   lengthof(args), types, args, nulls);
	else
		saved_plan_execute(&update_plan,
						   "UPDATE inbox.message SET status = $5, attempts = $6, error = $7,"
						   " error_sqlstate = $8, error_context = $9, error_at = $10,"
						   " next_attempt_at = $11, processed_at = $12, event_id = $13,"
						   " event_type = $14, aggregate_id = $15"
						   " WHERE subscription OPERATOR(pg_catalog.=) $1"
						   " AND topic OPERATOR(pg_catalog.=) $2"
						   " AND partition OPERATOR(pg_catalog.=) $3"
						   " AND \"offset\" OPERATOR(pg_catalog.=) $4"
						   " AND status OPERATOR(pg_catalog.=) 'pending'"
						   " AND event_id OPERATOR(pg_catalog.=) $16",
						   lengthof(args), types, args, nulls);
	return SPI_processed > 0;
}

/*
 * For inbox.seek(), between owner_sql_begin() and owner_sql_end(), whose first three
 * parameters these are: subscription, topic, partition.  Where that was found to
 * be another one than was read, or cut, what is left of the messages that were
 * read, and are known by their offsets only, gets the ids that they have in
 * inbox.received.  New ones may have their offsets.  So does the one of them that
 * stopped the subscription, in its row.
 */
void
unprocessed_rename(const Oid *types, const Datum *values)
{
	(void) owner_sql_execute("WITH renamed AS ("
							 " UPDATE inbox.message m SET event_id = pg_catalog.format('%s@%s', m.event_id,"
							 " coalesce((EXTRACT(epoch FROM m.created_at) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8, -1))"
							 " WHERE subscription OPERATOR(pg_catalog.=) $1"
							 " AND status OPERATOR(pg_catalog.<>) 'processed'"
							 " AND topic OPERATOR(pg_catalog.=) $2"
							 " AND partition OPERATOR(pg_catalog.=) $3"
							 " AND event_id OPERATOR(pg_catalog.=) pg_catalog.format('%s/%s/%s', topic, partition, \"offset\")"
							 " AND EXISTS (SELECT FROM inbox.position p"
							 "  WHERE p.subscription OPERATOR(pg_catalog.=) $1"
							 "  AND p.topic OPERATOR(pg_catalog.=) $2"
							 "  AND p.partition OPERATOR(pg_catalog.=) $3"
							 "  AND p.lost_reason OPERATOR(pg_catalog.=) ANY (ARRAY['cut', 'replaced']))"
							 " RETURNING topic, event_id,"
							 "  pg_catalog.format('%s/%s/%s', topic, partition, \"offset\") AS former_id)"
							 " UPDATE inbox.subscription s SET stopped_by = r.event_id FROM renamed r"
							 " WHERE s.name OPERATOR(pg_catalog.=) $1"
							 " AND s.stopped_by OPERATOR(pg_catalog.=) r.former_id"
							 " AND coalesce(s.stopped_topic OPERATOR(pg_catalog.=) r.topic, true)",
							 3, types, values, NULL);
}
