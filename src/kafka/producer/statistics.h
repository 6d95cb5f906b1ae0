/*-------------------------------------------------------------------------
 *
 * statistics.h
 *	  The few numbers that we show out of librdkafka's statistics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STATISTICS_H
#define OUTBOX_STATISTICS_H

#include "postgres.h"

#include "kafka/producer/producer.h"

extern void statistics_parse(const char *json, ProducerStats *stats);

#endif							/* OUTBOX_STATISTICS_H */
