/*-------------------------------------------------------------------------
 *
 * client.h
 *	  What the files around librdkafka's handles share.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CLIENT_H
#define OUTBOX_CLIENT_H

#include "postgres.h"

#include "port/atomics.h"
#include "utils/hsearch.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"

#define TOPIC_NAME_LEN 250		/* Kafka's limit, and a zero */

typedef struct Setting
{
	const char *name;
	const char *value;
} Setting;

/* Readable when there are events; -1 when not open. */
typedef struct WakePipe
{
	int			read_end;
	int			write_end;
} WakePipe;

extern rd_kafka_conf_t *client_configure(const KafkaConfig *config,
										 const Setting *defaults, int ndefaults,
										 const Setting *promises, int npromises,
										 char *error);
extern bool client_check_brokers(const rd_kafka_conf_t *conf,
								 const KafkaConfig *config, char *error);
extern rd_kafka_t *client_try(rd_kafka_type_t type, rd_kafka_conf_t *conf,
							  char *error);
extern rd_kafka_t *client_create(rd_kafka_type_t type, rd_kafka_conf_t *conf,
								 char *error);
extern void wake_pipe_init(WakePipe *wake);
extern bool wake_pipe_open(WakePipe *wake, char *error);
extern void wake_pipe_close(WakePipe *wake);
extern void wake_pipe_watch(const WakePipe *wake, rd_kafka_queue_t *queue);
extern void wake_pipe_empty(const WakePipe *wake);

#endif							/* OUTBOX_CLIENT_H */
