/*-------------------------------------------------------------------------
 *
 * config.h
 *	  Kafka settings as PostgreSQL keeps them: a foreign server named
 *	  "kafka" and, for secrets, a user mapping.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONFIG_H
#define OUTBOX_CONFIG_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#define PRODUCER_ERROR_LEN 512

#define KAFKA_SERVER_NAME "kafka"
#define KAFKA_WRAPPER_NAME "outbox_kafka"

/* The options of a server that are not librdkafka's, and their values. */
#define DELIVERY_OPTION "delivery"
#define DELIVERY_AT_LEAST_ONCE "at_least_once"
#define DELIVERY_EXACTLY_ONCE "exactly_once"
#define TIMESTAMP_OPTION "timestamp"
#define TIMESTAMP_COMMIT "commit"
#define TIMESTAMP_SEND "send"
#define CONNECTIONS_OPTION "connections"
#define DEFAULT_CONNECTIONS 32
#define MAX_CONNECTIONS 64

/*
 * The librdkafka properties that a database's administrator set, those of the
 * user mapping behind those of the server.  Values may be secrets: never
 * print them.
 */
typedef struct KafkaConfig
{
	List	   *options;		/* of DefElem, values are strings */
	bool		exactly_once;	/* option "delivery", which is ours */
	bool		send_time;		/* option "timestamp", likewise: records have
								 * the time of sending */
	int			connections;	/* option "connections", likewise: to each
								 * broker, at most */
	bool		owner_reads_files;	/* may the server's owner read any file of
									 * the database server's machine? */
	bool		names_files;	/* certificates, for example */
	uint64		files;			/* what they were like when this was made, */
	uint64		files_seen;		/* when we last looked, */
	TimestampTz looked_at;		/* and when that was, by monotonic_now() */
	const char *transactional_id;	/* name for Kafka transactions; NULL for
									 * none.  Set by whoever needs them. */
	int			batch_bytes;	/* to be sent at once, at most; 0: as the
								 * options say */
} KafkaConfig;

extern KafkaConfig *kafka_config_load(const char *server_name);
extern void kafka_config_take_own(KafkaConfig *config);
extern bool kafka_config_has(const KafkaConfig *config, const char *name);
extern bool kafka_config_has_mechanism(const KafkaConfig *config);
extern bool kafka_config_equal(const KafkaConfig *a, const KafkaConfig *b);
extern bool kafka_config_files_changed(KafkaConfig *config);
extern long kafka_config_wait_ms(const KafkaConfig *config, long timeout_ms);

#endif							/* OUTBOX_CONFIG_H */
