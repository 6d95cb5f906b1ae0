/*-------------------------------------------------------------------------
 *
 * idempotent_producer.h
 *	  An idempotent Kafka producer that fits PostgreSQL's process model.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_IDEMPOTENT_PRODUCER_H
#define OUTBOX_IDEMPOTENT_PRODUCER_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"
#include "kafka/producer/producer.h"

extern rd_kafka_conf_t *producer_configure(const KafkaConfig *config,
										   char *error);
extern void producer_set_error(Producer *producer, rd_kafka_resp_err_t err);

#endif							/* OUTBOX_IDEMPOTENT_PRODUCER_H */
