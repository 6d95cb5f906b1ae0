/*-------------------------------------------------------------------------
 *
 * statistics.h
 *	  The few numbers that we show out of librdkafka's statistics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_STATISTICS_H
#define OUTBOX_KAFKA_STATISTICS_H

#include "kafka/producer.h"

extern void statistics_parse(const char *json, ProducerStats *stats);

#endif							/* OUTBOX_KAFKA_STATISTICS_H */
