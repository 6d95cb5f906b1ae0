/*-------------------------------------------------------------------------
 *
 * producer_partitions.h
 *	  Which partitions know the producer, which have no leader, and which topics
 *	  take nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_PARTITIONS_H
#define OUTBOX_PRODUCER_PARTITIONS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern Partitioner producer_partitions_partitioner(const rd_kafka_conf_t *conf);
extern void producer_partitions_update(Producer *producer, ProducerTopic *topic,
									   const struct rd_kafka_metadata_topic *answer);
extern void producer_partitions_note_sent(ProducerTopic *topic);
extern void producer_partitions_note_reported(Producer *producer,
											  const rd_kafka_message_t *message,
											  bool acknowledged, TimestampTz now);

#endif							/* OUTBOX_PRODUCER_PARTITIONS_H */
