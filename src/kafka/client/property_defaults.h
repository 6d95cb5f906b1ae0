/*-------------------------------------------------------------------------
 *
 * property_defaults.h
 *	  Defaults of ours that follow what the administrator chose.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROPERTY_DEFAULTS_H
#define OUTBOX_PROPERTY_DEFAULTS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"

#define PROGRESS_RECORD_BYTES 65536 /* that a record of progress may need; see
									 * published_set_json.c */

extern void property_defaults_producer(rd_kafka_conf_t *conf, const KafkaConfig *config);
extern void property_defaults_consumer(rd_kafka_conf_t *conf, const KafkaConfig *config);
extern bool property_defaults_check_producer(const rd_kafka_conf_t *conf,
											 const KafkaConfig *config, char *error);

#endif							/* OUTBOX_PROPERTY_DEFAULTS_H */
