/*-------------------------------------------------------------------------
 *
 * consumer_lookup.c
 *	  Where a partition of a consumer begins and ends, and of which cluster it
 *	  is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/consumer/consumer.h"
#include "kafka/consumer/consumer_errors.h"
#include "kafka/consumer/consumer_state.h"
#include "kafka/consumer/partition_bounds.h"

/*
 * The first and the end offset of a partition, as a broker says.  Waits for an
 * answer, but not longer than timeout_ms.
 */
bool
consumer_bounds(Consumer *consumer, const char *topic, int partition,
				int64 *low, int64 *high, int timeout_ms)
{
	return !consumer_failed(consumer, partition_bounds_query(consumer->handle, topic,
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
 * The id of the cluster (CONSUMER_CLUSTER_LEN bytes), which comes with the first
 * answer about topics.  Returns false when it did not, or is longer.  Asks nobody.
 */
bool
consumer_cluster_id(Consumer *consumer, char *id)
{
	char	   *found = rd_kafka_clusterid(consumer->handle, 0);
	bool		fits = found != NULL && strlen(found) < CONSUMER_CLUSTER_LEN;

	if (fits)
		strlcpy(id, found, CONSUMER_CLUSTER_LEN);
	if (found != NULL)
		rd_kafka_mem_free(consumer->handle, found);
	return fits;
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
