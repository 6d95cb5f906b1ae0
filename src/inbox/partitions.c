/*-------------------------------------------------------------------------
 *
 * partitions.c
 *	  Which partitions a worker reads, and from where.
 *
 * Topics are looked up now and then (search.c), so that new partitions and new
 * topics that match a pattern are found.  Partition p belongs to worker p modulo the
 * number of workers.
 *
 * Where a partition is read from says inbox.position.  The worker takes the
 * row over by raising its fence; from then on the row moves only together
 * with the effects of messages, and only while the fence is the worker's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/search.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/steady.h"
#include "base/worker.h"

#define REFRESH_MS 10000		/* between two looks for new partitions */
#define RETRY_MS 2000			/* when something was missing */

/* The condition for the position of a partition. */
#define OF_PARTITION \
	" WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" AND topic OPERATOR(pg_catalog.=) $2" \
	" AND partition OPERATOR(pg_catalog.=) $3"

/*
 * The partition that the worker reads under this name, or NULL.
 */
Partition *
partitions_find(InboxWorker *worker, const char *topic, int partition)
{
	for (int i = 0; i < worker->npartitions; i++)
		if (worker->partitions[i]->at.partition == partition &&
			strcmp(worker->partitions[i]->at.topic, topic) == 0)
			return worker->partitions[i];
	return NULL;
}

/* Runs a statement about one partition's position; returns whether it has a row. */
static bool
run(const char *query, InboxWorker *worker, const ConsumerPartition *at,
	int64 argument, int expected)
{
	Oid			types[4] = {TEXTOID, TEXTOID, INT4OID, INT8OID};
	Datum		args[4] = {CStringGetTextDatum(worker->subscription->name),
		CStringGetTextDatum(at->topic), Int32GetDatum(at->partition),
	Int64GetDatum(argument)};

	if (SPI_execute_with_args(query, 4, types, args, NULL, false, 0) != expected)
		elog(ERROR, "query failed: %s", query);
	return SPI_processed > 0;
}

/* A column of the first row of the result. */
static Datum
result(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column,
						 isnull);
}

/*
 * Where a partition is to be read from, as inbox.position knows: *start is a
 * Unix time in ms or one of the constants of consumer.h.  The end, or a time
 * to come, means what comes after inbox.seek() was called, which is when the
 * row was changed: messages may have come since.  Returns true when
 * that has to be looked up in Kafka.
 */
static bool
needs_lookup(InboxWorker *worker, const ConsumerPartition *at, int64 *start)
{
	bool		isnull;
	bool		lookup = true;

	*start = worker->subscription->start_ms;
	worker_begin_sql();
	if (run("SELECT next_offset IS NULL OR seek_time IS NOT NULL,"
			" CASE WHEN seek_time OPERATOR(pg_catalog.=) '-infinity' THEN -2"
			" ELSE (EXTRACT(epoch FROM least(seek_time, updated_at)) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8 END"
			" FROM inbox.position" OF_PARTITION
			" AND $4 OPERATOR(pg_catalog.=) 0", worker, at, 0, SPI_OK_SELECT))
	{
		Datum		seek;

		lookup = DatumGetBool(result(1, &isnull));
		seek = result(2, &isnull);
		if (!isnull)
			*start = DatumGetInt64(seek);
	}
	worker_commit_sql();
	return lookup;
}

/*
 * Takes a partition over: raises its fence, and reads its position.  offset is
 * where to begin unless there is a position; -1 when it must be there.
 */
static void
take_over(InboxWorker *worker, Partition *partition, int64 offset)
{
	bool		isnull;
	Datum		datum;

	worker_begin_sql();
	if (!run("INSERT INTO inbox.position AS p (subscription, topic, partition, next_offset)"
			 " VALUES ($1, $2, $3, CASE WHEN $4 OPERATOR(pg_catalog.>=) 0 THEN $4 END)"
			 " ON CONFLICT (subscription, topic, partition) DO UPDATE"
			 " SET fence = p.fence OPERATOR(pg_catalog.+) 1,"
			 " next_offset = coalesce(excluded.next_offset, p.next_offset),"
			 " seek_time = NULL"
			 " RETURNING fence, next_offset, coalesce(rerun_until, 0), lost_from IS NOT NULL,"
			 " xmax OPERATOR(pg_catalog.=) 0,"	/* of a row that was inserted
												 * only */
			 " coalesce(rerun_since, '-infinity')",
			 worker, &partition->at, offset, SPI_OK_INSERT_RETURNING))
		elog(ERROR, "could not take over partition %d of topic \"%s\"",
			 partition->at.partition, partition->at.topic);
	partition->fence = DatumGetInt64(result(1, &isnull));
	datum = result(2, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("position of partition %d of topic \"%s\" was changed at the same time",
						partition->at.partition, partition->at.topic)));
	partition->at.offset = partition->stored = DatumGetInt64(datum);
	partition->rerun_until = DatumGetInt64(result(3, &isnull));
	partition->lost = DatumGetBool(result(4, &isnull));
	partition->is_new = DatumGetBool(result(5, &isnull));
	partition->rerun_since = DatumGetTimestampTz(result(6, &isnull));
	partition->shown = -1;
	partition->health = PARTITION_ASKED;
	worker_commit_sql();
}

/*
 * Adds a partition to those that the worker reads; false when Kafka did not
 * say where it begins.
 */
static bool
add_partition(InboxWorker *worker, const char *topic, int number)
{
	Partition	partition = {0};
	Partition  *kept;
	int64		offset = -1;
	int64		start;

	strlcpy(partition.at.topic, topic, CONSUMER_TOPIC_LEN);
	partition.at.partition = number;
	if (needs_lookup(worker, &partition.at, &start) &&
		!consumer_find_offset(worker->consumer, topic, number, start, &offset,
							  KAFKA_TIMEOUT_MS))
		return false;
	take_over(worker, &partition, offset);

	if (worker->partitions == NULL)
		worker->partitions = MemoryContextAlloc(TopMemoryContext,
												sizeof(Partition *));
	else
		worker->partitions = repalloc(worker->partitions,
									  sizeof(Partition *) * (worker->npartitions + 1));
	kept = MemoryContextAlloc(TopMemoryContext, sizeof(Partition));
	*kept = partition;
	worker->partitions[worker->npartitions++] = kept;
	return true;
}

/*
 * Tells the library which partitions to fetch, and from where.
 */
void
partitions_assign(InboxWorker *worker)
{
	ConsumerPartition *list = palloc(sizeof(ConsumerPartition) *
									 Max(worker->npartitions, 1));
	int			n = 0;

	for (int i = 0; i < worker->npartitions; i++)
		if (!worker->partitions[i]->lost && !worker->partitions[i]->gone)
			list[n++] = worker->partitions[i]->at;
	if (!consumer_assign(worker->consumer, list, n))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not assign partitions: %s",
						consumer_error(worker->consumer))));
	pfree(list);
}

/*
 * Adds the partition if it is new, or back; returns false when it cannot be
 * had.  Sets *changed when it is to be assigned.
 */
static bool
look_at_partition(InboxWorker *worker, Search *search, const char *topic,
				  int number, bool *changed)
{
	Partition  *partition = partitions_find(worker, topic, number);

	if (partition != NULL)
	{
		*changed |= partition->gone;
		partition->gone = false;
		return true;
	}
	if (add_partition(worker, topic, number))
	{
		*changed = true;
		return true;
	}
	search->unreached = consumer_unreached(worker->consumer);
	snprintf(search->error, CONSUMER_MESSAGE_LEN,
			 "partition %d of topic \"%s\": %s", number, topic,
			 consumer_error(worker->consumer));
	return false;
}

/* Adds the partitions that are new; false when one could not be had. */
static bool
add_partitions(InboxWorker *worker, Search *search)
{
	Subscription *subscription = worker->subscription;
	bool		changed = false;
	bool		complete = true;

	for (int i = 0; i < search->n; i++)
		for (int p = worker->entry->worker; p < search->topics[i].partitions;
			 p += subscription->workers)
		{
			complete &= look_at_partition(worker, search,
										  search->topics[i].name, p, &changed);
			worker_check(worker);
		}
	worker->status.partitions = worker->npartitions;
	if (changed)
		partitions_assign(worker);
	return complete;
}

/*
 * Looks for partitions, and notes whether Kafka answered and everything that
 * the subscription names is there.
 */
void
partitions_refresh(InboxWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox topics",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Search		search = {0};
	bool		complete;

	complete = search_topics(worker, &search);
	complete &= add_partitions(worker, &search);
	worker->complete = complete;
	if (!complete)
		health_lookup_failed(worker, search.error, search.unreached);
	worker->refresh_at =
		TimestampTzPlusMilliseconds(steady_now(),
									complete ? REFRESH_MS : RETRY_MS);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Stores that messages before an offset are not there any more.
 */
void
partitions_store_loss(InboxWorker *worker, Partition *partition, int64 until)
{
	worker_begin_sql();
	run("UPDATE inbox.position SET lost_from = next_offset, lost_until = $4"
		OF_PARTITION, worker, &partition->at, until, SPI_OK_UPDATE);
	worker_commit_sql();
	partition->lost = true;
}

/*
 * Shows the stored positions to Kafka's tools, as offsets of the group.
 */
void
partitions_commit_offsets(InboxWorker *worker)
{
	ConsumerPartition *list = palloc(sizeof(ConsumerPartition) *
									 Max(worker->npartitions, 1));
	int			n = 0;

	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->shown == partition->stored)
			continue;
		list[n] = partition->at;
		list[n++].offset = partition->stored;
		partition->shown = partition->stored;
	}
	if (n > 0)
		consumer_commit(worker->consumer, list, n);
	pfree(list);
}

/*
 * They are to be shown again.
 */
void
partitions_forget_shown(InboxWorker *worker)
{
	for (int i = 0; i < worker->npartitions; i++)
		worker->partitions[i]->shown = -1;
}

/*
 * How many messages are still to be read; -1 when that is not known yet.
 */
int64
partitions_lag(InboxWorker *worker)
{
	int64		lag = 0;

	for (int i = 0; i < worker->npartitions; i++)
	{
		ConsumerPartition *at = &worker->partitions[i]->at;
		int64		end;

		if (worker->partitions[i]->gone)
			continue;
		if (!consumer_known_end(worker->consumer, at->topic, at->partition, &end))
			return -1;
		lag += Max(end - at->offset, 0);
	}
	return lag;
}
