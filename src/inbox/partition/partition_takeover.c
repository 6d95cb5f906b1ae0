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
 * left alone, and looked at anew.  So is one that it has locked, in a transaction
 * that is still open.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/partition_takeover.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/partition/search_state.h"
#include "inbox/partition/takeover_candidate.h"
#include "inbox/partition/topic_search.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/process/worker_wait.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

/* A fence to begin with: see inbox.position. */
static int64
random_fence(void)
{
	uint64		fence;

	if (!pg_strong_random(&fence, sizeof(fence)))
		elog(ERROR, "could not generate a random number");
	return (int64) (fence >> 1);
}

/*
 * A column of a row of the last statement's result.
 */
Datum
takeover_result(uint64 row, int column, bool *isnull)
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
		char	   *topic = TextDatumGetCString(takeover_result(row, 1, &isnull));
		int			partition = DatumGetInt32(takeover_result(row, 2, &isnull));
		Candidate  *candidate;

		if (partition % worker->subscription->workers != worker->entry->worker ||
			search_has(search, topic) ||
			partitions_find(worker, topic, partition) != NULL)
			continue;
		candidate = add_candidate(worker, search, topic, partition, -1);
		candidate->left = true;
		candidate->lookup = false;
		candidate->offset = DatumGetInt64(takeover_result(row, 3, &isnull));
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

/*
 * The candidate that a row of the result is about, or NULL.
 */
Candidate *
takeover_candidate(Search *search, uint64 row)
{
	TopicPartition key;
	bool		isnull;

	partitions_key(&key, TextDatumGetCString(takeover_result(row, 1, &isnull)),
				   DatumGetInt32(takeover_result(row, 2, &isnull)));
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
		Candidate  *candidate = takeover_candidate(search, row);
		bool		isnull;
		Datum		start;

		if (candidate == NULL)
			continue;
		candidate->fence = DatumGetInt64(takeover_result(row, 3, &isnull));
		if (candidate->left)
		{
			candidate->offset = -1;
			continue;
		}
		candidate->lookup = DatumGetBool(takeover_result(row, 4, &isnull));
		start = takeover_result(row, 5, &isnull);
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
	if ((!worker->complete || worker->locked[0] != '\0') && !search->incomplete)
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
		takeover_due(worker, search) > monotonic_now())
		return false;
	search->told = consumer_told(worker->consumer);
	if (consumer_take_offsets(worker->consumer, search->offsets,
							  search->noffsets))
		search->step = SEARCH_READY;
	note_offsets(worker, search);
	return true;
}
