/*-------------------------------------------------------------------------
 *
 * takeover_rows.c
 *	  Raises the fences of partitions that are taken over, or makes their rows
 *	  in inbox.position.
 *
 * Rows that somebody else has locked are left for the next look.  The worker must
 * not wait for them: it would do so with those locked that it has taken over, and a
 * session that has called inbox.seek() may not end its transaction for long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/takeover_rows.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/partition/locked_positions.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/partition/partition_takeover.h"
#include "inbox/partition/search_state.h"
#include "inbox/partition/takeover_candidate.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/process/worker_wait.h"
#include "inbox/subscription/subscription_row.h"
#include "inbox/table/short_wait.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

/* The number of arguments of the statement. */
#define NARGS 6

/* The id of the cluster, if it is known. */
#define CLUSTER "CASE WHEN $6 OPERATOR(pg_catalog.<>) '' THEN $6 END"

/* Field xmax is zero in rows that were inserted only. */
#define TAKE_OVER_QUERY \
	"INSERT INTO inbox.position AS p (subscription, topic, partition, next_offset, fence, cluster_id)" \
	" SELECT $1, t.topic, t.partition," \
	"  CASE WHEN t.next_offset OPERATOR(pg_catalog.>=) 0 THEN t.next_offset END, t.fence, " CLUSTER \
	" FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)," \
	"  pg_catalog.unnest($4), pg_catalog.unnest($5))" \
	"  AS t (topic, partition, next_offset, fence)" \
	" ON CONFLICT (subscription, topic, partition) DO UPDATE" \
	" SET fence = p.fence OPERATOR(pg_catalog.+) 1," \
	" next_offset = coalesce(excluded.next_offset, p.next_offset)," \
	" seek_time = CASE WHEN excluded.next_offset IS NULL THEN p.seek_time END," \
	" cluster_id = coalesce(p.cluster_id, " CLUSTER ")" \
	" WHERE p.fence OPERATOR(pg_catalog.=) excluded.fence" \
	" RETURNING topic, partition, fence, next_offset," \
	" coalesce(rerun_until, 0), lost_from IS NOT NULL," \
	" xmax OPERATOR(pg_catalog.=) 0," \
	" coalesce(rerun_since, '-infinity')," \
	" before_offset, before_checksum, last_offset, last_checksum," \
	" coalesce(cluster_id OPERATOR(pg_catalog.<>) " CLUSTER ", false)," \
	" seek_time IS NOT NULL OR next_offset IS NULL"

/* Adds the partition that a row of the result is about. */
static void
add_partition(InboxWorker *worker, Search *search, uint64 row)
{
	bool		isnull;
	Partition  *partition;
	Candidate  *candidate;

	partition = partitions_add(worker,
							   TextDatumGetCString(takeover_result(row, 1, &isnull)),
							   DatumGetInt32(takeover_result(row, 2, &isnull)));
	partition->fence = DatumGetInt64(takeover_result(row, 3, &isnull));
	partition->at.offset = partition->stored = DatumGetInt64(takeover_result(row, 4, &isnull));
	partition->rerun_until = DatumGetInt64(takeover_result(row, 5, &isnull));
	partition->lost = DatumGetBool(takeover_result(row, 6, &isnull));
	partition->is_new = DatumGetBool(takeover_result(row, 7, &isnull));
	partition->rerun_since = DatumGetTimestampTz(takeover_result(row, 8, &isnull));
	for (int i = 0; i < MARKS; i++)
	{
		partition->marks[i].offset = DatumGetInt64(takeover_result(row, 9 + 2 * i, &isnull));
		partition->marks[i].checksum = DatumGetInt64(takeover_result(row, 10 + 2 * i, &isnull));
	}
	partition->other_cluster = DatumGetBool(takeover_result(row, 13, &isnull));
	partition->unsought = DatumGetBool(takeover_result(row, 14, &isnull));
	partition->shown = -1;
	partition->health = PARTITION_ASKED;
	partition->assigned_at = monotonic_now();
	candidate = takeover_candidate(search, row);
	partition->gone = candidate->left;
	/* In front of its beginning is nothing. */
	if (!candidate->had || candidate->start != CONSUMER_EARLIEST)
		marks_begin(worker, partition);
}

/* Makes an array of n elements. */
static Datum
make_array(Datum *values, int n, Oid type)
{
	if (type == TEXTOID)
		return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false,
											   TYPALIGN_INT));
	if (type == INT4OID)
		return PointerGetDatum(construct_array(values, n, INT4OID,
											   sizeof(int32), true,
											   TYPALIGN_INT));
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64),
										   true, TYPALIGN_DOUBLE));
}

/* Lists what can be taken over now; returns how many there are. */
static int
collect(Search *search, Candidate **list)
{
	HASH_SEQ_STATUS scan;
	Candidate  *candidate;
	int			n = 0;

	hash_seq_init(&scan, search->candidates);
	while ((candidate = hash_seq_search(&scan)) != NULL)
		if (!candidate->taken && (!candidate->lookup || candidate->had))
			list[n++] = candidate;
	return n;
}

/* Fills the arguments of the statement for n partitions. */
static void
fill_arguments(InboxWorker *worker, Candidate **list, int n, Datum *args)
{
	static const Oid types[] = {TEXTOID, INT4OID, INT8OID, INT8OID};
	Datum	   *columns[lengthof(types)];

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		columns[0][i] = CStringGetTextDatum(list[i]->key.topic);
		columns[1][i] = Int32GetDatum(list[i]->key.partition);
		columns[2][i] = Int64GetDatum(list[i]->offset);
		columns[3][i] = Int64GetDatum(list[i]->fence);
	}
	args[0] = CStringGetTextDatum(worker->subscription->name);
	for (int c = 0; c < lengthof(columns); c++)
		args[c + 1] = make_array(columns[c], n, types[c]);
	args[lengthof(columns) + 1] = CStringGetTextDatum(worker->cluster);
}

/*
 * Takes out of a list those whose positions somebody else has locked; returns how
 * many are left.
 */
static int
leave_locked(InboxWorker *worker, Search *search, Candidate **list, int n)
{
	const TopicPartition **keys = palloc(sizeof(TopicPartition *) * n);
	bool	   *locked = palloc(sizeof(bool) * n);
	Datum		args[NARGS];
	int			nfree = 0;

	for (int i = 0; i < n; i++)
		keys[i] = &list[i]->key;
	fill_arguments(worker, list, n, args);
	locked_positions_find(args, keys, n, locked);
	for (int i = 0; i < n; i++)
	{
		if (!locked[i])
			list[nfree++] = list[i];
		else if (search->locked[0] == '\0')
			snprintf(search->locked, CONSUMER_MESSAGE_LEN, LOCKED_POSITION,
					 psprintf("partition %d of topic \"%s\"", keys[i]->partition,
							  keys[i]->topic));
	}
	return nfree;
}

/*
 * Runs the statement, in a transaction that has begun.  Returns false, and undoes
 * that, when somebody else has locked something and does not end soon.
 */
static bool
run_query(Datum *args)
{
	Oid			types[NARGS] = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID,
	INT8ARRAYOID, TEXTOID};
	MemoryContext context = CurrentMemoryContext;
	int			nest_level = short_wait_begin();
	volatile bool done = true;

	PG_TRY();
	{
		(void) worker_run_sql(TAKE_OVER_QUERY, NARGS, types, args,
							  SPI_OK_INSERT_RETURNING);
		AtEOXact_GUC(true, nest_level);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		AbortCurrentTransaction();
		done = false;
	}
	PG_END_TRY();
	return done;
}

/*
 * Takes over what can be read now, in a transaction of its own; choosy: without what
 * somebody else has locked.  Returns false when somebody has, and nothing was done.
 * Ends the process when that would be in another subscription than was read: one
 * that was made under its name meanwhile.
 */
static bool
take_over(InboxWorker *worker, Search *search, bool choosy)
{
	Candidate **list;
	Datum		args[NARGS];
	int			n;

	worker_begin_sql();
	list = palloc(sizeof(Candidate *) * hash_get_num_entries(search->candidates));
	n = collect(search, list);
	if (choosy)
		n = leave_locked(worker, search, list, n);
	if (n > 0)
	{
		fill_arguments(worker, list, n, args);
		if (!run_query(args))
			return false;
		for (int i = 0; i < n; i++)
			list[i]->taken = true;
		for (uint64 row = 0; row < SPI_processed; row++)
			add_partition(worker, search, row);
		search->changed |= SPI_processed > 0;
		search->overtaken |= SPI_processed < n;

		/* Whoever ends it after this waits for our rows, or removes them. */
		if (!subscription_is_unchanged(worker->subscription))
			worker_restart(worker);
	}
	worker_commit_sql();
	return true;
}

/*
 * Takes over what can be read now.  What somebody else has locked is left: who has
 * called inbox.seek() may not end the transaction for long, and others may wait for
 * what this one has taken over.
 */
void
takeover_finish(InboxWorker *worker, Search *search)
{
	if (hash_get_num_entries(search->candidates) == 0)
		return;
	if (worker->cluster[0] == '\0')
		(void) consumer_cluster_id(worker->consumer, worker->cluster);
	search->locked[0] = '\0';
	if (!take_over(worker, search, false) && !take_over(worker, search, true))
		strlcpy(search->locked, "the subscription, or a position of it, is locked by another transaction, such as one that has called inbox.unsubscribe() and is still open",
				CONSUMER_MESSAGE_LEN);
}
