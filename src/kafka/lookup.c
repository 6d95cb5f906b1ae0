/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  What a consumer asks the brokers: which topics there are, and where a
 *	  partition begins and ends.
 *
 * Each call waits for an answer, but not longer than timeout_ms.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/bounds.h"
#include "kafka/handle.h"

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

/* Tells the handler of the topics in an answer that can be read from. */
static void
report_topics(const struct rd_kafka_metadata *metadata,
			  ConsumerTopicHandler handler, void *arg)
{
	for (int i = 0; i < metadata->topic_cnt; i++)
		if (metadata->topics[i].err == RD_KAFKA_RESP_ERR_NO_ERROR)
			handler(arg, metadata->topics[i].topic,
					metadata->topics[i].partition_cnt,
					first_leaderless(&metadata->topics[i]));
}

/*
 * Asks a broker for a topic and tells the handler, which must not raise an
 * error, how many partitions it has.  Returns false when the topic cannot be
 * read or no broker answers within timeout_ms; consumer_error() tells why.
 */
bool
consumer_list_topic(Consumer *consumer, const char *name,
					ConsumerTopicHandler handler, void *arg, int timeout_ms)
{
	rd_kafka_topic_t *topic = rd_kafka_topic_new(consumer->handle, name, NULL);
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;

	if (topic == NULL)
		return !consumer_failed(consumer, rd_kafka_last_error());
	err = rd_kafka_metadata(consumer->handle, 0, topic, &metadata, timeout_ms);
	rd_kafka_topic_destroy(topic);
	if (consumer_failed(consumer, err))
		return false;
	report_topics(metadata, handler, arg);
	err = metadata->topic_cnt == 1 ? metadata->topics[0].err :
		RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
	rd_kafka_metadata_destroy(metadata);
	return !consumer_failed(consumer, err);
}

/*
 * The same for all topics that we may see.
 */
bool
consumer_list_all_topics(Consumer *consumer, ConsumerTopicHandler handler,
						 void *arg, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;

	if (consumer_failed(consumer, rd_kafka_metadata(consumer->handle, 1, NULL, &metadata,
													timeout_ms)))
		return false;
	report_topics(metadata, handler, arg);
	rd_kafka_metadata_destroy(metadata);
	return true;
}

/*
 * The first and the end offset of a partition, as a broker says.
 */
bool
consumer_bounds(Consumer *consumer, const char *topic, int partition,
				int64 *low, int64 *high, int timeout_ms)
{
	return !consumer_failed(consumer, bounds_query(consumer->handle, topic,
												   partition, low, high,
												   timeout_ms));
}

/*
 * Where a partition starts: start is CONSUMER_EARLIEST, CONSUMER_LATEST, or a
 * Unix time in ms, which stands for the first message from then on, or the
 * end when there is none.
 */
bool
consumer_find_offset(Consumer *consumer, const char *topic, int partition,
					 int64 start, int64 *offset, int timeout_ms)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_resp_err_t err;
	int64		low;
	int64		high;

	if (!consumer_bounds(consumer, topic, partition, &low, &high, timeout_ms))
		return false;
	*offset = start == CONSUMER_EARLIEST ? low : high;
	if (start < 0)
		return true;

	list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(list, topic, partition)->offset = start;
	err = rd_kafka_offsets_for_times(consumer->handle, list, timeout_ms);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = list->elems[0].err;
	if (list->elems[0].offset >= 0)
		*offset = list->elems[0].offset;
	rd_kafka_topic_partition_list_destroy(list);
	return !consumer_failed(consumer, err);
}

/*
 * The end of a partition as it was when the last messages came; false when
 * that is not known.  Asks nobody.
 */
bool
consumer_known_end(Consumer *consumer, const char *topic, int partition,
				   int64 *end)
{
	int64		low;

	return rd_kafka_get_watermark_offsets(consumer->handle, topic, partition,
										  &low, end) ==
		RD_KAFKA_RESP_ERR_NO_ERROR && *end >= 0;
}
