/*-------------------------------------------------------------------------
 *
 * partition_takeover.c
 *	  Takes new partitions over: finds out where they are to be read from,
 *	  and raises the fences of their rows in inbox.position.
 *
 * However many there are, that takes two statements, and between them one
 * question to each broker, for those whose row does not know.  When a broker
 * takes long to answer, the partitions of others are taken over before.  Meanwhile
 * inbox.seek() may have moved a position, which then has another fence: it is
 * left alone, and looked at anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/partition_takeover.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/partition/assignment.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/partition/search_state.h"
#include "inbox/partition/topic_search.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/subscription_row.h"
#include "inbox/worker/consumer_main.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A partition that is to be taken over. */
typedef struct Candidate
{
	TopicPartition key;			/* hash key */
	int			leader;
	int64		fence;			/* that its row has, or is to have */
	bool		lookup;			/* is Kafka to be asked where it begins? */
	bool		had;			/* if so: it has told */
	bool		noted;			/* or has not, and will not */
	bool		taken;			/* it was taken over */
	bool		left;			/* it has only messages that wait */
	int64		start;			/* what to ask for */
	int64		offset;			/* where to begin unless there is a position */
} Candidate;

/* A fence to begin with: see inbox.position. */
static int64
random_fence(void)
{
	uint64		fence;

	if (!pg_strong_random(&fence, sizeof(fence)))
		elog(ERROR, "could not generate a random number");
	return (int64) (fence >> 1);
}

/* A column of a row of the result. */
static Datum
result(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column,
						 isnull);
}

/* Notes a partition of a topic that is not read yet. */
static Candidate *
add_candidate(InboxWorker *worker, Search *search, const char *topic,
			  int partition, int leader)
{
	TopicPartition key;
	Candidate  *candidate;

	partitions_key(&key, topic, partition);
	candidate = hash_search(search->candidates, &key, HASH_ENTER, NULL);
	candidate->leader = leader;
	candidate->fence = random_fence();
	candidate->lookup = true;
	candidate->had = candidate->left = false;
	candidate->noted = candidate->taken = false;
	candidate->start = worker->subscription->start_ms;
	candidate->offset = -1;
	return candidate;
}

/*
 * Finds partitions that are not read any more, since the subscription does not
 * take their topic now or it was deleted, but of which messages wait to be
 * tried: these belong to us as if the partition did.  Its position may have
 * been forgotten; it comes to be behind them.
 */
static void
find_left(InboxWorker *worker, Search *search)
{
	Oid			types[] = {TEXTOID};
	Datum		args[] = {(Datum) 0};

	worker_begin_sql();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	(void) worker_run_sql("SELECT topic, partition, pg_catalog.max(\"offset\") OPERATOR(pg_catalog.+) 1"
						  " FROM inbox.message"
						  " WHERE subscription OPERATOR(pg_catalog.=) $1"
						  " AND status OPERATOR(pg_catalog.=) 'pending'"
						  " GROUP BY topic, partition",
						  1, types, args, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		char	   *topic = TextDatumGetCString(result(row, 1, &isnull));
		int			partition = DatumGetInt32(result(row, 2, &isnull));
		Candidate  *candidate;

		if (partition % worker->subscription->workers != worker->entry->worker ||
			search_has(search, topic) ||
			partitions_find(worker, topic, partition) != NULL)
			continue;
		candidate = add_candidate(worker, search, topic, partition, -1);
		candidate->left = true;
		candidate->lookup = false;
		candidate->offset = DatumGetInt64(result(row, 3, &isnull));
	}
	worker_commit_sql();
}

/* Finds the partitions that are ours and are not read yet. */
static void
find_candidates(InboxWorker *worker, Search *search)
{
	HASH_SEQ_STATUS scan;
	FoundTopic *topic;

	search->candidates = partitions_table("outbox new partitions",
										  sizeof(Candidate), search->context);
	hash_seq_init(&scan, search->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		for (int p = worker->entry->worker; p < topic->partitions;
			 p += worker->subscription->workers)
		{
			Partition  *partition = partitions_find(worker, topic->name, p);

			if (partition == NULL)
				(void) add_candidate(worker, search, topic->name, p,
									 topic->leaders[p]);
			else if (partition->gone)
			{
				/* Only who begins anew asks where. */
				if (partition->unsought)
					worker_restart(worker);
				partition->gone = false;
				search->changed = true;
				if (!partition->lost)
					marks_begin(worker, partition);
			}
		}
}

/* The candidate that a row of the result is about, or NULL. */
static Candidate *
candidate_of(Search *search, uint64 row)
{
	TopicPartition key;
	bool		isnull;

	partitions_key(&key, TextDatumGetCString(result(row, 1, &isnull)),
				   DatumGetInt32(result(row, 2, &isnull)));
	return hash_search(search->candidates, &key, HASH_FIND, NULL);
}

/*
 * Where partitions are to be read from, as inbox.position knows.  The start is
 * a Unix time in ms or one of the constants of consumer.h.  The end, or a time
 * to come, means what comes after inbox.seek() was called, which is when the
 * row was changed: messages may have come since.
 */
static void
read_positions(InboxWorker *worker, Search *search)
{
	Oid			types[] = {TEXTOID};
	Datum		args[] = {(Datum) 0};

	worker_begin_sql();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	(void) worker_run_sql("SELECT topic, partition, fence,"
						  " next_offset IS NULL OR seek_time IS NOT NULL,"
						  " CASE WHEN seek_time OPERATOR(pg_catalog.=) '-infinity' THEN -2"
						  " ELSE (EXTRACT(epoch FROM least(seek_time, updated_at)) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8 END"
						  " FROM inbox.position"
						  " WHERE subscription OPERATOR(pg_catalog.=) $1",
						  1, types, args, SPI_OK_SELECT);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Candidate  *candidate = candidate_of(search, row);
		bool		isnull;
		Datum		start;

		if (candidate == NULL)
			continue;
		candidate->fence = DatumGetInt64(result(row, 3, &isnull));
		if (candidate->left)
		{
			candidate->offset = -1;
			continue;
		}
		candidate->lookup = DatumGetBool(result(row, 4, &isnull));
		start = result(row, 5, &isnull);
		if (!isnull)
			candidate->start = DatumGetInt64(start);
	}
	worker_commit_sql();
}

/* Lists the partitions whose offsets are to be asked for. */
static void
list_offsets(Search *search)
{
	long		n = hash_get_num_entries(search->candidates);
	HASH_SEQ_STATUS scan;
	Candidate  *candidate;

	search->offsets = MemoryContextAllocHuge(search->context,
											 sizeof(ConsumerOffset) * Max(n, 1));
	hash_seq_init(&scan, search->candidates);
	while ((candidate = hash_seq_search(&scan)) != NULL)
	{
		ConsumerOffset *offset = &search->offsets[search->noffsets];

		/* One without a leader is asked for when it has one. */
		if (!candidate->lookup || candidate->leader < 0)
			continue;
		offset->topic = candidate->key.topic;
		offset->partition = candidate->key.partition;
		offset->leader = candidate->leader;
		offset->start = candidate->start;
		offset->offset = -1;
		offset->told = false;
		search->noffsets++;
	}
}

/*
 * The topics are found: looks for partitions that are new, and asks where they
 * begin, or takes them over at once.
 */
void
takeover_begin(InboxWorker *worker, Search *search)
{
	search->step = SEARCH_READY;
	find_candidates(worker, search);
	if (!worker->complete && !search->incomplete)
		find_left(worker, search);
	if (hash_get_num_entries(search->candidates) == 0)
		return;
	read_positions(worker, search);
	list_offsets(search);
	if (search->noffsets == 0)
		return;
	search->step = SEARCH_OFFSETS;
	search->told = 0;
	search_asked(search);
	if (!consumer_ask_offsets(worker->consumer, search->offsets,
							  search->noffsets))
	{
		search_failed(worker, search, NULL);
		search->step = SEARCH_READY;
	}
}

/*
 * When there will be something to go on with, if an answer does not come before:
 * what brokers have told when another one keeps us waiting.
 */
TimestampTz
takeover_due(InboxWorker *worker, const Search *search)
{
	if (search->step != SEARCH_OFFSETS ||
		consumer_told(worker->consumer) == search->told)
		return DT_NOEND;
	return TimestampTzPlusMilliseconds(search->asked_at, PATIENCE_MS);
}

/* Notes what brokers have told, as far as that is new. */
static void
note_offsets(InboxWorker *worker, Search *search)
{
	for (int i = 0; i < search->noffsets; i++)
	{
		const ConsumerOffset *offset = &search->offsets[i];
		TopicPartition key;
		Candidate  *candidate;

		if (!offset->told)
			continue;
		partitions_key(&key, offset->topic, offset->partition);
		candidate = hash_search(search->candidates, &key, HASH_FIND, NULL);
		if (candidate->noted)
			continue;
		candidate->noted = true;
		candidate->offset = offset->offset;
		candidate->had = offset->offset >= 0;
		if (candidate->had)
			continue;
		search_failed(worker, search, NULL);
		snprintf(search->error, CONSUMER_MESSAGE_LEN,
				 "partition %d of topic \"%s\": %s", offset->partition,
				 offset->topic, consumer_error(worker->consumer));
	}
}

/*
 * Goes on with it, if answers have come.  Returns whether something can be taken
 * over now; when it is all, the search is ready.
 */
bool
takeover_continue(InboxWorker *worker, Search *search)
{
	if (search->step == SEARCH_READY)
		return true;
	if (!consumer_is_answered(worker->consumer) &&
		takeover_due(worker, search) > steady_now())
		return false;
	search->told = consumer_told(worker->consumer);
	if (consumer_take_offsets(worker->consumer, search->offsets,
							  search->noffsets))
		search->step = SEARCH_READY;
	note_offsets(worker, search);
	return true;
}

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
							   TextDatumGetCString(result(row, 1, &isnull)),
							   DatumGetInt32(result(row, 2, &isnull)));
	partition->fence = DatumGetInt64(result(row, 3, &isnull));
	partition->at.offset = partition->stored = DatumGetInt64(result(row, 4, &isnull));
	partition->rerun_until = DatumGetInt64(result(row, 5, &isnull));
	partition->lost = DatumGetBool(result(row, 6, &isnull));
	partition->is_new = DatumGetBool(result(row, 7, &isnull));
	partition->rerun_since = DatumGetTimestampTz(result(row, 8, &isnull));
	for (int i = 0; i < MARKS; i++)
	{
		partition->marks[i].offset = DatumGetInt64(result(row, 9 + 2 * i, &isnull));
		partition->marks[i].checksum = DatumGetInt64(result(row, 10 + 2 * i, &isnull));
	}
	partition->other_cluster = DatumGetBool(result(row, 13, &isnull));
	partition->unsought = DatumGetBool(result(row, 14, &isnull));
	partition->shown = -1;
	partition->health = PARTITION_ASKED;
	candidate = candidate_of(search, row);
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

/* Fills the arguments of the statement; returns for how many partitions. */
static int
fill_arguments(InboxWorker *worker, Search *search, Datum *args)
{
	static const Oid types[] = {TEXTOID, INT4OID, INT8OID, INT8OID};
	long		size = hash_get_num_entries(search->candidates);
	Datum	   *columns[lengthof(types)];
	HASH_SEQ_STATUS scan;
	Candidate  *candidate;
	int			n = 0;

	for (int c = 0; c < lengthof(columns); c++)
		columns[c] = palloc(sizeof(Datum) * size);
	hash_seq_init(&scan, search->candidates);
	while ((candidate = hash_seq_search(&scan)) != NULL)
	{
		if (candidate->taken || (candidate->lookup && !candidate->had))
			continue;
		candidate->taken = true;
		columns[0][n] = CStringGetTextDatum(candidate->key.topic);
		columns[1][n] = Int32GetDatum(candidate->key.partition);
		columns[2][n] = Int64GetDatum(candidate->offset);
		columns[3][n++] = Int64GetDatum(candidate->fence);
	}
	args[0] = CStringGetTextDatum(worker->subscription->name);
	for (int c = 0; c < lengthof(columns); c++)
		args[c + 1] = make_array(columns[c], n, types[c]);
	args[lengthof(columns) + 1] = CStringGetTextDatum(worker->cluster);
	return n;
}

/*
 * Takes over what can be read now.  Runs a transaction of its own.  Ends the
 * process when that would be in another subscription than was read: one that was
 * made under its name meanwhile.
 */
void
takeover_finish(InboxWorker *worker, Search *search)
{
	Oid			types[] = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID, INT8ARRAYOID,
	INT8ARRAYOID, TEXTOID};
	Datum		args[lengthof(types)];
	int			n;

	if (hash_get_num_entries(search->candidates) == 0)
		return;
	worker_begin_sql();
	if (worker->cluster[0] == '\0')
		(void) consumer_cluster_id(worker->consumer, worker->cluster);
	n = fill_arguments(worker, search, args);
	if (n > 0)
	{
		(void) worker_run_sql(TAKE_OVER_QUERY, lengthof(types), types, args,
							  SPI_OK_INSERT_RETURNING);
		for (uint64 row = 0; row < SPI_processed; row++)
			add_partition(worker, search, row);
		search->changed |= SPI_processed > 0;
		search->overtaken |= SPI_processed < n;

		/* Whoever ends it after this waits for our rows, or removes them. */
		if (!load_is_unchanged(worker->subscription))
			worker_restart(worker);
	}
	worker_commit_sql();
}
