/*-------------------------------------------------------------------------
 *
 * redelivery_read.c
 *	  Reads the messages that wait in inbox.message.
 *
 * Up to WAITING_LIMIT keys wait, and each is read by itself.  So what one costs
 * must not depend on how many there are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/redelivery_read.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "core/background_worker.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/saved_plan.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/subscription/subscription.h"
#include "inbox/table/short_wait.h"

/* What of it tells the key, and when it is due. */
#define FIRST_OF_EACH(distinct) \
	"SELECT DISTINCT ON (" distinct ") subscription, event_id, topic, partition, \"offset\", key, NULL, NULL, NULL, NULL, NULL," \
	" status, attempts, NULL, received_at, processed_at, created_at, error_sqlstate, NULL, error_at, next_attempt_at, chunk" \
	" FROM inbox.message m" \
	" WHERE m.subscription OPERATOR(pg_catalog.=) $1" \
	" AND m.status OPERATOR(pg_catalog.=) 'pending'" \
	" ORDER BY " distinct ", \"offset\""

/*
 * Finds out what waits in the table for the partitions that we read.  Keys
 * that are known already stay as they are.  Runs a transaction of its own.
 */
void
redelivery_load(InboxWorker *worker)
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
			redelivery_queue_add(worker, partition, &message, false);
	}
	worker_commit_sql();
}

/*
 * Messages from offset $4 on, which message_pending_idx has in order.  Where they
 * end is told as a range, too: only a path that has them in order will do then.
 */
#define NEXT_QUERY(filter) \
	"SELECT m.* FROM inbox.message m" \
	" WHERE m.subscription OPERATOR(pg_catalog.=) $1" \
	" AND m.status OPERATOR(pg_catalog.=) 'pending'" \
	" AND m.topic OPERATOR(pg_catalog.=) $2" \
	" AND m.partition OPERATOR(pg_catalog.=) $3" \
	" AND m.\"offset\" OPERATOR(pg_catalog.>=) $4" filter \
	" ORDER BY m.\"offset\" LIMIT $5 FOR NO KEY UPDATE"

#define ONE_OFFSET " AND m.\"offset\" OPERATOR(pg_catalog.<=) $4"

/*
 * Those of a key behind offset $4, which message_pending_key_idx has in order.  A
 * condition for the column "partition" itself would let the planner take
 * message_pending_idx instead, and go through the messages of all keys.
 */
#define BEHIND_QUERY \
	"SELECT m.* FROM inbox.message m" \
	" WHERE m.subscription OPERATOR(pg_catalog.=) $1" \
	" AND m.status OPERATOR(pg_catalog.=) 'pending'" \
	" AND m.topic OPERATOR(pg_catalog.=) $2" \
	" AND m.partition::pg_catalog.int8 OPERATOR(pg_catalog.=) $3::pg_catalog.int8" \
	" AND pg_catalog.sha256(m.key) OPERATOR(pg_catalog.=) pg_catalog.sha256($6)" \
	" AND m.key OPERATOR(pg_catalog.=) $6" \
	" AND m.\"offset\" OPERATOR(pg_catalog.>) $4" \
	" ORDER BY m.\"offset\" LIMIT $5 FOR NO KEY UPDATE"

/*
 * Runs one of these queries, and adds what it finds.  A plan lasts, and the planner
 * may make it while there are few messages and any way is cheap.  Without sorting,
 * only the index that was meant is left.
 */
static void
read_in_order(Round *round, SPIPlanPtr *plan, const char *query, Datum *args,
			  InboxMessage *messages, int *n)
{
	Oid			types[6] = {TEXTOID, TEXTOID, INT4OID, INT8OID, INT8OID, BYTEAOID};
	int			nest_level = short_wait_begin();

	(void) set_config_option("enable_sort", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		/* Who retries or discards messages has locked the subscription first. */
		round->worker->wants_subscription = true;
		saved_plan_execute(plan, query, lengthof(types), types, args, NULL);
		round->worker->wants_subscription = false;
	}
	PG_CATCH();
	{
		short_wait_failed(&round->disturbed);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest_level);
	for (uint64 i = 0; i < SPI_processed; i++)
		message_from_tuple(&messages[(*n)++], SPI_tuptable->vals[i],
						   SPI_tuptable->tupdesc);
}

/*
 * Reads and locks the first messages of a key: limit, and one to know the next.
 * Returns them, and sets *n to their number.  Raises a serialization failure, and
 * notes it in the round, when somebody else has locked one and does not end soon.
 */
InboxMessage *
retry_read(Round *round, const Waiting *waiting, int limit, int *n)
{
	static const char *const queries[] = {
		[ORDERING_KEY] = NEXT_QUERY(ONE_OFFSET),
		[ORDERING_PARTITION] = NEXT_QUERY(""),
		[ORDERING_NONE] = NEXT_QUERY(ONE_OFFSET),
	};
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr behind_plan = NULL;
	Subscription *subscription = round->worker->subscription;
	InboxMessage *messages = palloc(sizeof(InboxMessage) * (limit + 1));
	Datum		args[6];

	args[0] = CStringGetTextDatum(subscription->name);
	args[1] = CStringGetTextDatum(waiting->partition->at.topic);
	args[2] = Int32GetDatum(waiting->partition->at.partition);
	args[3] = Int64GetDatum(waiting->first_offset);
	args[4] = Int64GetDatum((int64) limit + 1);
	args[5] = PointerGetDatum(cstring_to_text(""));
	*n = 0;
	read_in_order(round, &plan, queries[subscription->ordering], args, messages, n);
	if (subscription->ordering != ORDERING_KEY || *n == 0 || *n > limit ||
		messages[0].nulls[MESSAGE_KEY])
		return messages;
	args[4] = Int64GetDatum((int64) limit + 1 - *n);
	args[5] = messages[0].values[MESSAGE_KEY];
	read_in_order(round, &behind_plan, BEHIND_QUERY, args, messages, n);
	return messages;
}
