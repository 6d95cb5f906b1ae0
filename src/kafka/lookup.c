/*-------------------------------------------------------------------------
 *
 * lookup.c
 *	  Where a partition of a consumer begins and ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/bounds.h"
#include "kafka/handle.h"

/*
 * The first and the end offset of a partition, as a broker says.  Waits for an
 * answer, but not longer than timeout_ms.
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
