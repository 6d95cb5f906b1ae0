/*-------------------------------------------------------------------------
 *
 * config.h
 *	  Kafka settings as PostgreSQL keeps them: a foreign server named
 *	  "kafka" and, for secrets, a user mapping.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_CONFIG_H
#define OUTBOX_KAFKA_CONFIG_H

#include "postgres.h"

#include "nodes/pg_list.h"

#define KAFKA_SERVER_NAME "kafka"
#define KAFKA_WRAPPER_NAME "outbox_kafka"

/*
 * The librdkafka properties that a database's administrator set, those of the
 * user mapping behind those of the server.  Values may be secrets: never
 * print them.
 */
typedef struct KafkaConfig
{
	List	   *options;		/* of DefElem, values are strings */
} KafkaConfig;

extern KafkaConfig *kafka_config_load(const char *server_name);
extern bool kafka_config_equal(const KafkaConfig *a, const KafkaConfig *b);

#endif							/* OUTBOX_KAFKA_CONFIG_H */
