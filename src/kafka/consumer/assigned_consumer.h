/*-------------------------------------------------------------------------
 *
 * assigned_consumer.h
 *	  A Kafka consumer that fits PostgreSQL's process model.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ASSIGNED_CONSUMER_H
#define OUTBOX_ASSIGNED_CONSUMER_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"

extern rd_kafka_conf_t *consumer_configure(const KafkaConfig *config,
										   const char *group,
										   const char *isolation, char *error);

#endif							/* OUTBOX_ASSIGNED_CONSUMER_H */
