/*-------------------------------------------------------------------------
 *
 * partition_bounds.c
 *	  The first and the end offset of a partition.
 *
 * rd_kafka_query_watermark_offsets() would ask for both at once.  But it waits
 * without regard to its time-out for a leader that is not there any more, up to
 * several times socket.timeout.ms, when the other brokers have not noticed yet.
 * rd_kafka_offsets_for_times() sends the same request and keeps the time-out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/consumer/partition_bounds.h"

/* Asks for one of the two: RD_KAFKA_OFFSET_BEGINNING or _END. */
static rd_kafka_resp_err_t
query(rd_kafka_t *handle, const char *topic, int partition, int64 which,
	  int64 *offset, int timeout_ms)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t err;

	rd_kafka_topic_partition_list_add(list, topic, partition)->offset = which;
	err = rd_kafka_offsets_for_times(handle, list, timeout_ms);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = list->elems[0].err;
	*offset = list->elems[0].offset;
	rd_kafka_topic_partition_list_destroy(list);
	return err;
}

/*
 * Asks the leader of a partition for its bounds; the end is that of committed
 * messages where the handle reads only these.  Waits for timeout_ms for each of
 * two answers.  Touches nothing of PostgreSQL's, so that a thread may call it.
 */
rd_kafka_resp_err_t
partition_bounds_query(rd_kafka_t *handle, const char *topic, int partition, int64 *low,
					   int64 *high, int timeout_ms)
{
	rd_kafka_resp_err_t err = query(handle, topic, partition,
									RD_KAFKA_OFFSET_BEGINNING, low, timeout_ms);

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return err;
	return query(handle, topic, partition, RD_KAFKA_OFFSET_END, high, timeout_ms);
}
