/*-------------------------------------------------------------------------
 *
 * producer_topics.h
 *	  The topics of a producer, and whether they can take messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_TOPICS_H
#define OUTBOX_PRODUCER_TOPICS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"

extern void producer_topics_create(Producer *producer);
extern void producer_topics_destroy(Producer *producer);
extern void producer_topics_poll(Producer *producer);
extern bool producer_topics_learn(Producer *producer,
								  rd_kafka_topic_partition_list_t *unknown);
extern void producer_topics_note_trouble(Producer *producer);
extern rd_kafka_topic_t *producer_topics_open(rd_kafka_t *handle, ProducerTopic *topic);

#endif							/* OUTBOX_PRODUCER_TOPICS_H */
