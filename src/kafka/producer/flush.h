/*-------------------------------------------------------------------------
 *
 * flush.h
 *	  Sends messages at once, without keeping a processor busy.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FLUSH_H
#define OUTBOX_FLUSH_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern bool flush_is_unwanted(const KafkaConfig *config);
extern bool flush_is_wanted(const KafkaConfig *config);
extern bool flush_configure(rd_kafka_conf_t *conf, const KafkaConfig *config,
							char *error);
extern void flush_note_sent(Producer *producer, ProducerHandle *handle,
							rd_kafka_resp_err_t err);
extern void flush_note_reported(const Producer *producer,
								ProducerHandle *handle,
								const rd_kafka_message_t *message,
								TimestampTz now);

#endif							/* OUTBOX_FLUSH_H */
