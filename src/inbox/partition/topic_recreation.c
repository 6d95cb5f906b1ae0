/*-------------------------------------------------------------------------
 *
 * topic_recreation.c
 *	  Finds out that a topic was deleted and made again while it was being read.
 *
 * The library goes on at the same offset then, and tells nothing, if the new topic
 * has got that far by the time the library asks for more: what is in front of that
 * offset would be passed over in silence.  So each look for topics ends with a
 * question about one partition of each topic: where is the first message that is
 * younger than one which had been read when the partition was first asked for?  As
 * long as the log is the same, that offset only grows.  In a new topic, all of whose
 * messages are younger, it is the first one.
 *
 * A smaller offset is a suspicion only: messages carry the times that producers
 * give them.  The marks decide (see partition_marks.c).  The last ones may be of
 * the new topic already, so they are those that the partitions had when the topic
 * was last known to be the one that was read.  Partitions have no topics of their
 * own: if one was made again, all were, so one is asked for, the same each time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/topic_recreation.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "inbox/partition/partition_doubt.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/partition/search_state.h"
#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"

/* Milliseconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_MS \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400000))

/* The topic of a partition, if it was found and the partition has a leader. */
static FoundTopic *
topic_of(Search *search, const Partition *partition)
{
	FoundTopic *topic = hash_search(search->topics, partition->at.topic,
									HASH_FIND, NULL);

	if (topic == NULL || partition->at.partition >= topic->partitions ||
		topic->leaders[partition->at.partition] < 0)
		return NULL;
	return topic;
}

/* Is it known of a partition which messages were read? */
static bool
is_readable(const Partition *partition)
{
	return !partition->lost && !partition->gone &&
		partition->check == CHECK_DONE &&
		partition->marks[MARKS - 1].offset >= 0;
}

/*
 * Can a partition be asked for?  Only when the time of a message is known, which
 * it is once one was read.
 */
static bool
can_be_watched(const Partition *partition)
{
	return partition->watch_time_ms > 0 ||
		partition->marks[MARKS - 1].time_ms > 0;
}

/* Notes what a partition's marks are when a question is asked. */
static void
note_asked(Partition *partition, int64 now_ms)
{
	memcpy(partition->asked, partition->marks, sizeof(partition->asked));
	partition->asked_ms = now_ms;
	partition->asked_position = partition->at.offset;
}

/* Chooses a partition of each topic; returns of how many topics. */
static int
choose(InboxWorker *worker, Search *search)
{
	int64		now_ms = GetCurrentTimestamp() / 1000 + EPOCH_MS;
	int			n = 0;

	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];
		FoundTopic *topic;

		if (!is_readable(partition))
			continue;
		note_asked(partition, now_ms);
		topic = can_be_watched(partition) ? topic_of(search, partition) : NULL;
		if (topic == NULL)
			continue;
		if (topic->watched == NULL)
			n++;
		/* One that was asked for before can tell. */
		if (topic->watched == NULL ||
			(topic->watched->watch_offset < 0 && partition->watch_offset >= 0))
			topic->watched = partition;
	}
	return n;
}

/* Adds the question about a topic. */
static void
add_question(Search *search, FoundTopic *topic)
{
	Partition  *partition = topic->watched;
	ConsumerOffset *offset = &search->offsets[search->noffsets++];

	if (partition->watch_time_ms == 0)
		partition->watch_time_ms = partition->marks[MARKS - 1].time_ms + 1;
	offset->topic = partition->at.topic;
	offset->partition = partition->at.partition;
	offset->leader = topic->leaders[partition->at.partition];
	offset->start = partition->watch_time_ms;
	offset->offset = -1;
	offset->told = false;
}

/*
 * All that was found is taken over: asks whether the topics are still those that
 * were read.  Returns false when there is nothing to ask.
 */
bool
recreation_ask(InboxWorker *worker, Search *search)
{
	int			n = choose(worker, search);
	HASH_SEQ_STATUS scan;
	FoundTopic *topic;

	if (n == 0)
		return false;
	search->noffsets = 0;
	search->offsets = MemoryContextAllocHuge(search->context,
											 sizeof(ConsumerOffset) * n);
	hash_seq_init(&scan, search->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->watched != NULL)
			add_question(search, topic);
	search->step = SEARCH_DONE;
	return consumer_ask_offsets(worker->consumer, search->offsets,
								search->noffsets);
}

/* Judges a topic by an answer. */
static void
judge(Search *search, const ConsumerOffset *offset)
{
	FoundTopic *topic = hash_search(search->topics, offset->topic, HASH_FIND,
									NULL);
	Partition  *partition = topic->watched;

	if (offset->offset < 0)
		return;
	if (offset->offset < partition->watch_offset)
	{
		topic->verdict = VERDICT_SUSPECT;
		ereport(DEBUG1,
				(errmsg_internal("topic \"%s\" may be another one than was read",
								 topic->name)));
		/* If it turns out to be the same, its times cannot be relied on. */
		partition->watch_offset = -1;
		partition->watch_time_ms = 0;
		return;
	}
	topic->verdict = VERDICT_SAME;
	ereport(DEBUG1,
			(errmsg_internal("topic \"%s\" is the one that was read",
							 topic->name)));

	/*
	 * All in front of the position is older, or had been younger then
	 * already.
	 */
	partition->watch_offset = Max(partition->watch_offset,
								  Min(offset->offset, partition->asked_position));
}

/* Has a partition checked, or notes that it is the one that was read. */
static void
apply(InboxWorker *worker, Search *search, Partition *partition)
{
	FoundTopic *topic = topic_of(search, partition);

	if (topic == NULL || topic->verdict == VERDICT_NONE || !is_readable(partition))
		return;
	if (topic->verdict == VERDICT_SUSPECT)
	{
		marks_doubt_since(worker, partition);
		health_doubt(worker, partition);
	}
	else if (partition->asked_ms != 0)
	{
		memcpy(partition->verified, partition->asked, sizeof(partition->verified));
		partition->verified_ms = partition->asked_ms;
	}
}

/*
 * Takes the answer, if it has come; returns whether it has.  A broker that has not
 * told is asked again with the next look.
 */
bool
recreation_take(InboxWorker *worker, Search *search)
{
	if (!consumer_is_answered(worker->consumer))
		return false;
	(void) consumer_take_offsets(worker->consumer, search->offsets,
								 search->noffsets);
	for (int i = 0; i < search->noffsets; i++)
		judge(search, &search->offsets[i]);
	for (int i = 0; i < worker->npartitions; i++)
		apply(worker, search, worker->partitions[i]);
	return true;
}
