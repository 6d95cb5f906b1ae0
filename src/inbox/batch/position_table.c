/*-------------------------------------------------------------------------
 *
 * position_table.c
 *	  Moves the rows of inbox.position.
 *
 * A position moves last in its transaction, and only while the fence is ours: a
 * worker that was replaced, and does not know it yet, finds nothing to move, and
 * all it did is undone.
 *
 * A row of inbox.position changes with each transaction.  While somebody has an
 * old snapshot, all its versions stay, and an index leads to each of them.  So
 * the worker remembers where the last one is, which is its own.  If that is not
 * there any more, the row is looked for by its key.
 *
 * A session that has called inbox.seek() has the row locked until its transaction
 * ends, which may take long.  So a batch does not wait for long: it is undone, and
 * the worker waits for the row with nothing locked, and shows that.  The same goes
 * for who has called inbox.retry() or inbox.discard(), where the worker wants a
 * message, or the row of the subscription, to stop it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/position_table.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/batch/position_move.h"
#include "inbox/batch/saved_plan.h"
#include "inbox/batch/under_way.h"
#include "inbox/partition/locked_positions.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_lag.h"
#include "inbox/process/worker_report.h"
#include "inbox/process/worker_wait.h"
#include "inbox/table/short_wait.h"
#include "registry/consumer_entry.h"
#include "registry/consumers.h"

/*
 * Then it waits without, looks so often, the more positions the less, and shows after
 * a while that it waits.
 */
#define POLL_MS 100
#define PARTITIONS_PER_MS 5
#define SHOW_AFTER_MS 1000

#define MOVE_QUERY(where) \
	"UPDATE inbox.position p SET next_offset = m.next_offset," \
	" received = p.received OPERATOR(pg_catalog.+) m.received," \
	" processed = p.processed OPERATOR(pg_catalog.+) m.processed," \
	" duplicates = p.duplicates OPERATOR(pg_catalog.+) m.duplicates," \
	" conflicts = p.conflicts OPERATOR(pg_catalog.+) m.conflicts," \
	" rerun_until = CASE WHEN p.rerun_until OPERATOR(pg_catalog.>) m.next_offset" \
	"  THEN p.rerun_until END," \
	" end_offset = greatest(m.end_offset, m.next_offset)," \
	" last_offset = m.last_offset, last_checksum = m.last_checksum," \
	" before_offset = m.before_offset, before_checksum = m.before_checksum," \
	" cluster_id = coalesce($15, p.cluster_id)," \
	" latest_receipt = greatest(p.latest_receipt, pg_catalog.now(), p.rerun_since)," \
	" updated_at = pg_catalog.clock_timestamp()" \
	" FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)," \
	"  pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6)," \
	"  pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9)," \
	"  pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12)," \
	"  pg_catalog.unnest($13), pg_catalog.unnest($14), pg_catalog.unnest($16)," \
	"  pg_catalog.unnest($17)) m (topic, partition, fence," \
	"  next_offset, received, processed, duplicates, conflicts, end_offset," \
	"  before_offset, before_checksum, last_offset, last_checksum, place, number)" \
	" WHERE " where " p.subscription OPERATOR(pg_catalog.=) $1" \
	" AND p.topic OPERATOR(pg_catalog.=) m.topic" \
	" AND p.partition OPERATOR(pg_catalog.=) m.partition" \
	" AND p.fence OPERATOR(pg_catalog.=) m.fence" \
	" RETURNING m.number, p.ctid"

static Datum
int8_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64),
										   true, TYPALIGN_DOUBLE));
}

/* Raises the error that a position is not where the worker has left it. */
static void
raise_moved(InboxWorker *worker)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("position of subscription \"%s\" was changed by somebody else",
					worker->subscription->name),
			 errdetail("Another worker has taken over, or inbox.seek() was called.")));
}

#define LOCK_QUERY(where) \
	"SELECT FROM inbox.position p" \
	" WHERE " where " p.subscription OPERATOR(pg_catalog.=) $1" \
	" AND p.fence OPERATOR(pg_catalog.=) ANY ($2) FOR NO KEY UPDATE"

/* An array of where the rows of n partitions are. */
static Datum
place_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, TIDOID,
										   sizeof(ItemPointerData), false,
										   TYPALIGN_SHORT));
}

/*
 * Has statements that are planned from now on look rows up where they are, until
 * the nest level that this returns ends.  The planner knows only how many versions
 * there are now, and any other way is cheaper while they are few.
 */
static int
insist_on_places(void)
{
	static const char *const others[] = {
		"enable_seqscan", "enable_indexscan", "enable_indexonlyscan",
		"enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"
	};
	int			nest_level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(others); i++)
		(void) set_config_option(others[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

/*
 * Locks the positions that will move, without waiting: who holds other locks
 * that inbox.unsubscribe() wants must not wait for it.  Returns false when
 * somebody else has one.
 */
bool
position_lock(InboxWorker *worker, const Move *moves, int n)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr place_plan = NULL;
	Oid			types[3] = {TEXTOID, INT8ARRAYOID, TIDARRAYOID};
	Datum		args[3];
	Datum	   *fences = palloc(sizeof(Datum) * n);
	Datum	   *places = palloc(sizeof(Datum) * n);
	int			nest_level;

	for (int i = 0; i < n; i++)
	{
		fences[i] = Int64GetDatum(moves[i].partition->fence);
		places[i] = PointerGetDatum(&moves[i].partition->place);
	}
	args[0] = CStringGetTextDatum(worker->subscription->name);
	args[1] = int8_array(fences, n);
	args[2] = place_array(places, n);
	nest_level = insist_on_places();
	saved_plan_execute(&place_plan,
					   LOCK_QUERY("p.ctid OPERATOR(pg_catalog.=) ANY ($3) AND") " SKIP LOCKED",
					   3, types, args, NULL);
	AtEOXact_GUC(true, nest_level);
	if (SPI_processed != n)
		saved_plan_execute(&plan, LOCK_QUERY("") " SKIP LOCKED", 2, types, args, NULL);
	return SPI_processed == n;
}

/* Hashed, whatever the planner thinks of how many there are. */
#define HAS_FENCE \
	"(p.fence OPERATOR(pg_catalog.=) ANY (SELECT pg_catalog.unnest($2))) IS TRUE"

/*
 * A position of the worker that somebody else has locked.  Locks those that nobody
 * has, until the transaction ends.  One that has another fence by now is not among
 * them: it is not the worker's any more.
 */
#define LOCKED_QUERY \
	"WITH free AS MATERIALIZED (SELECT p.topic, p.partition FROM inbox.position p" \
	"  WHERE p.subscription OPERATOR(pg_catalog.=) $1" \
	"  AND " HAS_FENCE " FOR NO KEY UPDATE SKIP LOCKED)" \
	" SELECT pg_catalog.format('partition %s of topic \"%s\"', p.partition, p.topic)" \
	" FROM inbox.position p" \
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1" \
	" AND " HAS_FENCE \
	" AND ((p.topic, p.partition) OPERATOR(pg_catalog.=) ANY" \
	"  (SELECT f.topic, f.partition FROM free f)) IS NOT TRUE LIMIT 1"

/* The same of the subscription: who retries or discards messages has locked it. */
#define SUBSCRIPTION_LOCKED_QUERY \
	"WITH free AS MATERIALIZED (SELECT FROM inbox.subscription s" \
	"  WHERE s.name OPERATOR(pg_catalog.=) $1 FOR NO KEY UPDATE SKIP LOCKED)" \
	" SELECT FROM inbox.subscription s" \
	" WHERE s.name OPERATOR(pg_catalog.=) $1 AND NOT EXISTS (SELECT FROM free)"

/*
 * What is in the way of the worker, since somebody else has locked it: the row of
 * the subscription, where that was wanted, or a position; in the caller's memory
 * context, or NULL.  Runs a transaction of its own.
 */
static char *
find_locked(InboxWorker *worker)
{
	static SPIPlanPtr plan = NULL;
	static SPIPlanPtr subscription_plan = NULL;
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {TEXTOID, INT8ARRAYOID};
	Datum		args[2];
	Datum	   *fences;
	char	   *found = NULL;

	worker_begin_sql();
	fences = palloc(sizeof(Datum) * worker->npartitions);
	for (int i = 0; i < worker->npartitions; i++)
		fences[i] = Int64GetDatum(worker->partitions[i]->fence);
	args[0] = CStringGetTextDatum(worker->subscription->name);
	args[1] = int8_array(fences, worker->npartitions);
	saved_plan_execute(&plan, LOCKED_QUERY, 2, types, args, NULL);
	if (SPI_processed > 0)
		found = MemoryContextStrdup(context,
									psprintf(LOCKED_POSITION,
											 SPI_getvalue(SPI_tuptable->vals[0],
														  SPI_tuptable->tupdesc, 1)));
	else if (worker->wants_subscription)
	{
		saved_plan_execute(&subscription_plan, SUBSCRIPTION_LOCKED_QUERY, 1, types, args, NULL);
		if (SPI_processed > 0)
			found = MemoryContextStrdup(context, "the subscription is locked by another transaction, such as one that has called inbox.retry() or inbox.discard() and is still open");
	}
	worker_commit_sql();
	MemoryContextSwitchTo(context);
	return found;
}

/*
 * Waits, outside of any transaction, until nobody else has a position of the worker
 * locked, or the subscription, where that was in the way; when that lasts, it is
 * shown.  The other may be a session that has called inbox.seek(), retry() or
 * discard() and does not end its transaction.  Nobody waits for the worker
 * meanwhile, since it has no locks.  May end the process.
 */
void
position_wait(InboxWorker *worker)
{
	TimestampTz began = monotonic_now();
	char		message[CONSUMER_MESSAGE_LEN];
	char	   *locked;

	culprit_clear(worker);
	while ((locked = find_locked(worker)) != NULL || worker->wants_subscription)
	{
		/* A message may be locked by somebody who has not locked that. */
		if (locked == NULL)
			worker->wants_subscription = false;
		else
		{
			strlcpy(message, locked, sizeof(message));
			pfree(locked);
			if (TimestampDifferenceExceeds(began, monotonic_now(), SHOW_AFTER_MS))
				health_problem(worker, CONSUMER_WAITING_LOCK, message);
		}
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_MS + worker->npartitions / PARTITIONS_PER_MS, PG_WAIT_EXTENSION);
		worker_check(worker);
	}
	if (worker->status.state == CONSUMER_WAITING_LOCK && worker->locked[0] == '\0')
	{
		consumers_set_state(&worker->status, CONSUMER_RUNNING);
		worker_show(worker);
	}
}

/* Columns of a statement's arrays of moves. */
enum
{
	MOVE_TOPIC,
	MOVE_PARTITION,
	MOVE_FENCE,
	MOVE_NEXT_OFFSET,
	MOVE_RECEIVED,
	MOVE_PROCESSED,
	MOVE_DUPLICATES,
	MOVE_CONFLICTS,
	MOVE_END,
	MOVE_MARKS,
	MOVE_PLACE = MOVE_MARKS + 2 * MARKS,
	MOVE_NUMBER,
	MOVE_COLUMNS
};

/* Fills the arrays' elements of row k with a move, which has that number. */
static void
fill_move(InboxWorker *worker, const Move *move, int number,
		  Datum *const *columns, int k)
{
	Partition  *partition = move->partition;
	const Mark *marks = move->last ? move->marks : partition->marks;

	columns[MOVE_TOPIC][k] = CStringGetTextDatum(partition->at.topic);
	columns[MOVE_PARTITION][k] = Int32GetDatum(partition->at.partition);
	columns[MOVE_FENCE][k] = Int64GetDatum(partition->fence);
	columns[MOVE_NEXT_OFFSET][k] = Int64GetDatum(move->next_offset);
	columns[MOVE_RECEIVED][k] = Int64GetDatum((int64) move->received);
	columns[MOVE_PROCESSED][k] = Int64GetDatum((int64) move->processed);
	columns[MOVE_DUPLICATES][k] = Int64GetDatum((int64) move->duplicates);
	columns[MOVE_CONFLICTS][k] = Int64GetDatum((int64) move->conflicts);
	columns[MOVE_END][k] = Int64GetDatum(Max(partitions_end(worker, partition), 0));
	for (int m = 0; m < MARKS; m++)
	{
		columns[MOVE_MARKS + 2 * m][k] = Int64GetDatum(marks[m].offset);
		columns[MOVE_MARKS + 2 * m + 1][k] = Int64GetDatum(marks[m].checksum);
	}
	columns[MOVE_PLACE][k] = PointerGetDatum(&partition->place);
	columns[MOVE_NUMBER][k] = Int32GetDatum(number);
}

/* Runs the statement over k moves; notes where the rows are that it has moved. */
static void
run_move(InboxWorker *worker, Move *moves, Datum *const *columns, int k,
		 bool by_place)
{
	static SPIPlanPtr plans[2] = {NULL, NULL};
	Oid			types[17] = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID};
	Datum		args[17];
	bool		known = worker->cluster[0] != '\0';
	bool		isnull;
	int			nest_level = 0;

	args[0] = CStringGetTextDatum(worker->subscription->name);
	args[1] = saved_plan_text_array(columns[MOVE_TOPIC], k);
	args[2] = PointerGetDatum(construct_array(columns[MOVE_PARTITION], k, INT4OID,
											  sizeof(int32), true, TYPALIGN_INT));
	for (int c = MOVE_FENCE; c < MOVE_PLACE; c++)
	{
		types[c + 1] = INT8ARRAYOID;
		args[c + 1] = int8_array(columns[c], k);
	}
	types[14] = TEXTOID;
	args[14] = known ? CStringGetTextDatum(worker->cluster) : (Datum) 0;
	types[15] = TIDARRAYOID;
	args[15] = place_array(columns[MOVE_PLACE], k);
	types[16] = INT4ARRAYOID;
	args[16] = PointerGetDatum(construct_array(columns[MOVE_NUMBER], k, INT4OID,
											   sizeof(int32), true, TYPALIGN_INT));
	if (by_place)
		nest_level = insist_on_places();
	saved_plan_execute(&plans[by_place], by_place ?
					   MOVE_QUERY("p.ctid OPERATOR(pg_catalog.=) m.place AND") :
					   MOVE_QUERY(""), 17, types, args,
					   known ? NULL : "              n  ");
	if (by_place)
		AtEOXact_GUC(true, nest_level);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[row];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Move	   *move = &moves[DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull))];

		move->place = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, desc, 2, &isnull));
	}
}

/* Runs the statement over n moves: by place, and then over what is not there. */
static void
run_moves(InboxWorker *worker, Move *moves, int n)
{
	Datum	   *columns[MOVE_COLUMNS];

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
		ItemPointerSetInvalid(&moves[i].place);
	for (int by_place = 1; by_place >= 0; by_place--)
	{
		int			k = 0;

		for (int i = 0; i < n; i++)
			if (!ItemPointerIsValid(&moves[i].place) &&
				(!by_place || ItemPointerIsValid(&moves[i].partition->place)))
				fill_move(worker, &moves[i], i, columns, k++);
		if (k > 0)
			run_move(worker, moves, columns, k, by_place);
	}
}

/*
 * Moves the positions of partitions.  Raises an error when another worker has
 * taken one of them over, or somebody has moved it; and a serialization failure,
 * with *disturbed, when somebody else has locked one and does not end soon: call
 * position_wait() before the transaction begins anew.  When the transaction has
 * committed, the places of the moves are where the rows are.
 */
void
position_move(InboxWorker *worker, Move *moves, int n, volatile bool *disturbed)
{
	int			nest_level = short_wait_begin();

	PG_TRY();
	{
		run_moves(worker, moves, n);
	}
	PG_CATCH();
	{
		short_wait_failed(disturbed);
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nest_level);
	for (int i = 0; i < n; i++)
		if (!ItemPointerIsValid(&moves[i].place))
			raise_moved(worker);
}
