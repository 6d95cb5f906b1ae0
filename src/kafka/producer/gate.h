/*-------------------------------------------------------------------------
 *
 * gate.h
 *	  What the files about the gate of a producer share; see gate.c.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GATE_H
#define OUTBOX_GATE_H

#include "postgres.h"

#include "lib/ilist.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"
#include "kafka/producer/producer.h"

extern bool gate_is_wanted(const KafkaConfig *config);
extern bool gate_configure(rd_kafka_conf_t *conf, const KafkaConfig *config,
						   char *error);
extern void gate_create(Producer *producer, const rd_kafka_conf_t *conf);
extern bool gate_send(Producer *producer, const Message *message,
					  int number, SendResult *result);
extern void gate_note_sent(Producer *producer, const Message *message,
						   int partition);
extern void gate_note_reported(Producer *producer,
							   const rd_kafka_message_t *message);
extern void gate_poll(Producer *producer, DeliveryHandler handler, void *arg);
extern void gate_begin(Producer *producer);
extern void gate_destroy(Producer *producer);

#endif							/* OUTBOX_GATE_H */
