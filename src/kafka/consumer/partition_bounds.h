/*-------------------------------------------------------------------------
 *
 * partition_bounds.h
 *	  The first and the end offset of a partition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_BOUNDS_H
#define OUTBOX_PARTITION_BOUNDS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

extern rd_kafka_resp_err_t partition_bounds_query(rd_kafka_t *handle, const char *topic,
												  int partition, int64 *low, int64 *high,
												  int timeout_ms);

#endif							/* OUTBOX_PARTITION_BOUNDS_H */
