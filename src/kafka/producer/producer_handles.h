/*-------------------------------------------------------------------------
 *
 * producer_handles.h
 *	  The library's handles that a producer has: one, or more of them where
 *	  Kafka is far away.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_HANDLES_H
#define OUTBOX_PRODUCER_HANDLES_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern bool producer_handles_open_first(Producer *producer, rd_kafka_conf_t *conf,
										bool flushes, char *error);
extern rd_kafka_topic_t *producer_handles_topic(Producer *producer,
												ProducerHandle *handle,
												ProducerTopic *topic);
extern void producer_handles_poll(Producer *producer);
extern void producer_handles_leave(Producer *producer);
extern void producer_handles_close(Producer *producer);

#endif							/* OUTBOX_PRODUCER_HANDLES_H */
