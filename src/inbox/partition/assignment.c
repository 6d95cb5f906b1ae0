/*-------------------------------------------------------------------------
 *
 * assignment.c
 *	  Which partitions a worker reads, and from where.
 *
 * Topics are looked up now and then (topic_search.c), so that new partitions
 * and new topics that match a pattern are found, and taken over
 * (partition_takeover.c).  Partition p belongs to worker p modulo the number
 * of workers.
 *
 * Where a partition is read from says inbox.position.  The worker takes the
 * row over by raising its fence; from then on the row moves only together
 * with the effects of messages, and only while the fence is the worker's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/assignment.h"

#include "common/hashfn.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/partition/partition_doubt.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/partition/partition_takeover.h"
#include "inbox/partition/search_state.h"
#include "inbox/partition/stray_positions.h"
#include "inbox/partition/takeover_rows.h"
#include "inbox/partition/topic_recreation.h"
#include "inbox/partition/topic_search.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"
#include "kafka/consumer/consumer.h"

#define REFRESH_MS 10000		/* between two looks for new partitions */
#define RETRY_MS 2000			/* when something was missing, */
#define LOCKED_MS 1000			/* or locked by somebody else */
#define PATIENCE_FACTOR 3		/* an answer may take so many times as long as
								 * the last, if not PATIENCE_MS */

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
	{
		Partition  *partition = worker->partitions[i];

		if (partition->lost || partition->gone)
			continue;
		list[n] = partition->at;
		list[n++].offset = marks_start(partition);
		marks_started(partition);
	}
	if (!consumer_assign(worker->consumer, list, n))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("could not assign partitions: %s",
						consumer_error(worker->consumer))));
	pfree(list);
}

/*
 * Has n records fetched again that are of these partitions, in the order in
 * which they were fetched, and were not processed.
 */
void
partitions_give_back(InboxWorker *worker, Partition **partitions,
					 const ConsumerRecord **records, int n)
{
	ConsumerPartition *list = palloc(sizeof(ConsumerPartition) * Max(n, 1));
	int			nlist = 0;

	for (int i = n - 1; i >= 0; i--)
		partitions[i]->at.offset = records[i]->offset;
	for (int i = 0; i < n; i++)
	{
		Partition  *partition = partitions[i];

		/* The first of each is enough. */
		if (partition->at.offset != records[i]->offset)
			continue;
		list[nlist] = partition->at;
		list[nlist++].offset = marks_start(partition);
		marks_started(partition);
	}
	if (nlist > 0)
		consumer_seek(worker->consumer, list, nlist);
	pfree(list);
}

/*
 * When to go on looking for partitions, by monotonic_now().
 */
TimestampTz
partitions_refresh_due(InboxWorker *worker)
{
	TimestampTz due;

	if (worker->search == NULL)
		return worker->refresh_at;
	if (consumer_is_answered(worker->consumer))
		return monotonic_now();
	/* The answer wakes us. */
	if (worker->search->step == SEARCH_DONE)
		return DT_NOEND;
	due = takeover_due(worker, worker->search);
	if (worker->search->slow_shown)
		return due;
	return Min(due, TimestampTzPlusMilliseconds(worker->search->asked_at,
												worker->patience_ms));
}

/* Shows that an answer takes longer than it did so far. */
static void
check_patience(InboxWorker *worker)
{
	if (worker->search->slow_shown ||
		!TimestampDifferenceExceeds(worker->search->asked_at, monotonic_now(),
									worker->patience_ms))
		return;
	worker->search->slow_shown = true;
	worker->looked = true;
	worker->complete = false;
	health_lookup_failed(worker, worker->search->step == SEARCH_OFFSETS ?
						 "not all brokers have told yet where partitions begin" :
						 "no broker has told yet which topics there are", true);
}

/* An answer has come: its like may take as long, and more. */
static void
learn_patience(InboxWorker *worker)
{
	long		taken = TimestampDifferenceMilliseconds(worker->search->asked_at,
														monotonic_now());

	worker->patience_ms = Max(PATIENCE_MS, PATIENCE_FACTOR * taken);
}

/*
 * Partitions that a topic does not have any more, since it was made anew with
 * fewer, are not waited for.  Those that it has are others than were read.
 */
static void
drop_partitions(InboxWorker *worker, Search *search)
{
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];
		FoundTopic *topic = hash_search(search->topics, partition->at.topic,
										HASH_FIND, NULL);

		if (!partition->gone && topic != NULL && topic->partitions > 0 &&
			partition->at.partition >= topic->partitions)
		{
			partition->gone = search->changed = true;
			health_doubt_topic(worker, partition->at.topic);
		}
	}
}

/* Reads what was taken over, too, and nothing that has gone. */
static void
read_changed(InboxWorker *worker, Search *search)
{
	worker->status.partitions = worker->npartitions;
	if (!search->changed)
		return;
	search->changed = false;
	partitions_assign(worker);
	worker->offsets_moved = true;
	worker->settled = false;
}

/* How long after a look the next one begins, in ms. */
static long
pause_after(const InboxWorker *worker, const Search *search)
{
	if (search->overtaken)
		return 0;
	if (search->locked[0] != '\0')
		return LOCKED_MS;
	return search->incomplete || worker->strays ? RETRY_MS : REFRESH_MS;
}

static void
drop_search(InboxWorker *worker)
{
	MemoryContextDelete(worker->search->context);
	worker->search = NULL;
}

/*
 * Asks whether what was found is still what was read.  While something is missing,
 * which may be for ever, there are more looks, but no more questions.  Returns false
 * when there is none now.
 */
static bool
ask_whether_same(InboxWorker *worker, Search *search)
{
	if (search->incomplete &&
		(search->unreached || worker->ask_same_at > monotonic_now()))
		return false;
	worker->ask_same_at = TimestampTzPlusMilliseconds(monotonic_now(), REFRESH_MS);
	return recreation_ask(worker, search);
}

/*
 * Ends a look: notes whether all that the subscription names is there.  A last
 * question is whether what is there is still what was read.
 */
static void
finish_search(InboxWorker *worker)
{
	Search	   *search = worker->search;

	takeover_finish(worker, search);
	drop_partitions(worker, search);
	if (!search->incomplete)
		stray_positions_remove(worker, search);
	read_changed(worker, search);
	worker->looked = true;
	worker->complete = !search->incomplete;
	health_locked(worker, search->locked);
	if (search->incomplete)
		health_lookup_failed(worker, search->error, search->unreached);
	worker->refresh_at =
		TimestampTzPlusMilliseconds(monotonic_now(), pause_after(worker, search));
	if (!ask_whether_same(worker, search))
		drop_search(worker);
}

/*
 * Looks for partitions when it is time, and notes whether Kafka answered and
 * everything that the subscription names is there.  Does not wait for Kafka.
 */
void
partitions_refresh(InboxWorker *worker)
{
	Search	   *search = worker->search;

	if (search != NULL && search->step == SEARCH_DONE)
	{
		if (recreation_take(worker, search))
			drop_search(worker);
		return;
	}
	if (search == NULL)
	{
		if (worker->refresh_at > monotonic_now())
			return;
		search = worker->search = search_begin(worker);
	}
	if (search->step < SEARCH_FOUND && search_continue(worker, search))
		learn_patience(worker);
	if (search->step == SEARCH_FOUND)
		takeover_begin(worker, search);
	if (search->step > SEARCH_FOUND && takeover_continue(worker, search))
	{
		if (search->step == SEARCH_READY)
		{
			finish_search(worker);
			return;
		}
		takeover_finish(worker, search);
		read_changed(worker, search);
	}
	check_patience(worker);
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
	worker->offsets_moved = true;
}
