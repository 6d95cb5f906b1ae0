/*-------------------------------------------------------------------------
 *
 * partition_placement.h
 *	  Which partition a message goes to, and through which of the producer's
 *	  handles.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_PLACEMENT_H
#define OUTBOX_PARTITION_PLACEMENT_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern int	placement_partition(Producer *producer, ProducerTopic *topic,
								const Message *message);
extern ProducerHandle *placement_choose(Producer *producer, ProducerTopic *topic,
										int partition);
extern int	placement_wanted(const Producer *producer);
extern void placement_anew(Producer *producer, TimestampTz now);
extern bool placement_must_wait(Producer *producer, const Message *message,
								int partition);
extern bool placement_fall_back(Producer *producer, ProducerTopic *topic,
								int partition, ProducerHandle **handle);
extern void placement_note_sent(Producer *producer, ProducerHandle *handle,
								ProducerTopic *topic, const Message *message,
								int partition);
extern void placement_note_reported(Producer *producer, ProducerHandle *handle,
									const rd_kafka_message_t *message,
									int partition, TimestampTz now);
extern void placement_note_answered(Producer *producer, ProducerHandle *handle,
									const rd_kafka_message_t *message,
									int partition);

#endif							/* OUTBOX_PARTITION_PLACEMENT_H */
