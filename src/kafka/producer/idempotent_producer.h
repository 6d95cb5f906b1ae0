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

extern rd_kafka_conf_t *producer_configure(const KafkaConfig *config,
										   char *error);

#endif							/* OUTBOX_IDEMPOTENT_PRODUCER_H */
