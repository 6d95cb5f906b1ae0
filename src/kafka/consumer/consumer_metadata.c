/*-------------------------------------------------------------------------
 *
 * consumer_metadata.c
 *	  What a consumer asks the brokers: which topics there are, and where
 *	  partitions begin.
 *
 * One question is about any number of topics, or of partitions, and nobody
 * waits for its answer, which makes the event descriptor readable.  There is
 * one question at a time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/consumer/consumer_metadata.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/broker_request.h"
#include "kafka/consumer/consumer.h"
#include "kafka/consumer/consumer_errors.h"
#include "kafka/consumer/consumer_state.h"

/* That a broker may take, however many topics it tells of. */
#define TOPICS_MS 30000
#define OFFSETS_MS 10000		/* all brokers */

/* Of so many partitions one request asks; the library looks for each in all. */
#define PART 1000

static void
forget_topics(Consumer *consumer)
{
	if (consumer->topics)
		rd_kafka_metadata_destroy(consumer->topics);
	consumer->topics = NULL;
}

/*
 * Gives back what the library has lent, before the handle goes.
 */
void
discovery_forget(Consumer *consumer)
{
	forget_topics(consumer);
	for (int i = 0; i < consumer->nknown; i++)
		rd_kafka_topic_destroy(consumer->known[i]);
	consumer->nknown = 0;
}

/*
 * Has the consumer know topics, whether it reads them or not, so that they are
 * among those that consumer_ask_topics() asks for.  Names that the library
 * refuses are left out.  May raise an error for want of memory.
 */
void
consumer_know_topics(Consumer *consumer, char **names, int n)
{
	consumer->known = MemoryContextAlloc(consumer->context,
										 sizeof(rd_kafka_topic_t *) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		rd_kafka_topic_t *topic = rd_kafka_topic_new(consumer->handle, names[i],
													 NULL);

		if (topic)
			consumer->known[consumer->nknown++] = topic;
	}
}

/* Did a question start?  If not, there is no room for a thread. */
static bool
has_asked(Consumer *consumer)
{
	return consumer->question ||
		!consumer_failed(consumer, RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE);
}

/*
 * Asks for all topics that we may see, or for those that the consumer knows or
 * reads.  The last answer has gone then.  Returns false when nothing can be
 * asked; consumer_error() tells why.
 */
bool
consumer_ask_topics(Consumer *consumer, bool all)
{
	forget_topics(consumer);
	consumer->question = broker_request_ask(consumer->handle, &consumer->wake, NULL,
											all, TOPICS_MS);
	return has_asked(consumer);
}

/*
 * Is there an answer to be taken?  The descriptor may have told already.
 */
bool
consumer_is_answered(const Consumer *consumer)
{
	return broker_request_is_answered(consumer->question);
}

/*
 * Takes the answer about topics; returns whether it is there.  *reached says
 * whether it is one of a broker; consumer_error() tells why not.
 */
bool
consumer_take_topics(Consumer *consumer, bool *reached)
{
	rd_kafka_resp_err_t err;

	if (!broker_request_answer(&consumer->question, &err, &consumer->topics))
		return false;
	*reached = !consumer_failed(consumer, err);
	return true;
}

/*
 * How many topics the last answer has.
 */
int
consumer_ntopics(const Consumer *consumer)
{
	return consumer->topics ? consumer->topics->topic_cnt : 0;
}

/* The first partition of a topic that has no leader, or -1. */
static int
first_leaderless(const rd_kafka_metadata_topic_t * topic)
{
	int			first = -1;

	for (int i = 0; i < topic->partition_cnt; i++)
		if (topic->partitions[i].leader < 0 &&
			(first < 0 || topic->partitions[i].id < first))
			first = topic->partitions[i].id;
	return first;
}

/*
 * One of them.
 */
void
consumer_topic(Consumer *consumer, int i, ConsumerTopic *topic)
{
	const		rd_kafka_metadata_topic_t *answer = &consumer->topics->topics[i];

	topic->name = answer->topic;
	topic->readable = !consumer_failed(consumer, answer->err);
	topic->partitions = answer->partition_cnt;
	topic->leaderless = first_leaderless(answer);
}

/*
 * The last answer lacks a topic that was asked for: consumer_error() says so.
 */
void
consumer_set_topic_unknown(Consumer *consumer)
{
	(void) consumer_failed(consumer, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
}

/*
 * The number of the broker that leads a partition of topic i of the last
 * answer; -1 if none does.
 */
int
consumer_leader(const Consumer *consumer, int i, int partition)
{
	const		rd_kafka_metadata_topic_t *topic = &consumer->topics->topics[i];

	if (partition < topic->partition_cnt &&
		topic->partitions[partition].id == partition)
		return topic->partitions[partition].leader;
	for (int p = 0; p < topic->partition_cnt; p++)
		if (topic->partitions[p].id == partition)
			return topic->partitions[p].leader;
	return -1;
}

/* The list that a partition goes into; NULL when none of n has room. */
static OffsetList *
list_of(OffsetList *lists, int n, int leader, bool times)
{
	for (int i = n - 1; i >= 0; i--)
		if (lists[i].leader == leader && lists[i].times == times &&
			lists[i].partitions->cnt < PART)
			return &lists[i];
	return NULL;
}

/* Adds a partition to a list; returns how many lists there are then. */
static int
add_offset(OffsetList *lists, int n, const ConsumerOffset *offset, bool times)
{
	OffsetList *list = list_of(lists, n, offset->leader, times);

	if (list == NULL)
	{
		list = &lists[n++];
		list->leader = offset->leader;
		list->times = times;
		list->partitions = rd_kafka_topic_partition_list_new(PART);
	}
	rd_kafka_topic_partition_list_add(list->partitions, offset->topic,
									  offset->partition)->offset =
		offset->start >= 0 && !times ? CONSUMER_LATEST : offset->start;
	return n;
}

/*
 * Asks for offsets of partitions.  For a time, the end is asked for first, so
 * that what comes meanwhile is not passed over.  Returns false as above.
 */
bool
consumer_ask_offsets(Consumer *consumer, const ConsumerOffset *offsets, int n)
{
	/* At worst each partition has a leader of its own. */
	OffsetList *lists = broker_request_offset_lists(2 * n);
	int			nlists = 0;

	if (lists == NULL)
		return has_asked(consumer);
	for (int i = 0; i < n; i++)
		nlists = add_offset(lists, nlists, &offsets[i], false);
	for (int i = 0; i < n; i++)
		if (offsets[i].start >= 0)
			nlists = add_offset(lists, nlists, &offsets[i], true);
	consumer->question = broker_request_ask_offsets(consumer->handle, &consumer->wake,
													lists, nlists, OFFSETS_MS);
	return has_asked(consumer);
}

/*
 * Takes the offset of a partition from an answer.  One that a time stands for
 * is behind the end that was asked for before only if it has come meanwhile;
 * then the next question tells.
 */
static void
take_offset(Consumer *consumer, ConsumerOffset *offset, bool times,
			const rd_kafka_topic_partition_t *answer)
{
	if (answer->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		(void) consumer_failed(consumer, answer->err);
		offset->offset = -1;
	}
	else if (!times)
		offset->offset = Max(answer->offset, -1);
	else if (answer->offset > offset->offset)
		offset->offset = -1;
	else if (answer->offset >= 0)
		offset->offset = answer->offset;
}

/* The next answer about a partition of that leader, in the order of asking. */
static const rd_kafka_topic_partition_t *
next_answer(OffsetList *lists, int n, int leader, bool times)
{
	for (int i = 0; i < n; i++)
		if (lists[i].leader == leader && lists[i].times == times &&
			lists[i].taken < lists[i].partitions->cnt)
			return &lists[i].partitions->elems[lists[i].taken++];
	return NULL;
}

/*
 * How many brokers have told of offsets so far, or have not in time.
 */
int
consumer_told(const Consumer *consumer)
{
	return broker_request_told(consumer->question);
}

/* Has a leader told of all its lists? */
static bool
has_told(OffsetList *lists, int n, int leader)
{
	for (int i = 0; i < n; i++)
		if (lists[i].leader == leader)
			return broker_request_list_is_told(&lists[i]);
	return false;
}

/*
 * Takes the answers about offsets that are there, of the same partitions in the
 * same order; returns whether these are all.  Those that brokers have not told
 * yet are not told.  consumer_error() tells why one is missing, if any is.
 */
bool
consumer_take_offsets(Consumer *consumer, ConsumerOffset *offsets, int n)
{
	OffsetList *lists;
	int			nlists;
	bool		all = broker_request_offsets(&consumer->question, &lists, &nlists);

	if (!all)
		lists = broker_request_lists(consumer->question, &nlists);
	for (int i = 0; i < n; i++)
	{
		ConsumerOffset *offset = &offsets[i];

		if (offset->told || !has_told(lists, nlists, offset->leader))
			continue;
		offset->told = true;
		for (int times = 0; times <= (offset->start >= 0); times++)
			take_offset(consumer, offset, times,
						next_answer(lists, nlists, offset->leader, times));
	}
	if (all)
		broker_request_free_offsets(lists, nlists);
	return all;
}
