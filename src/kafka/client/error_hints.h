/*-------------------------------------------------------------------------
 *
 * error_hints.h
 *	  What to do about an error, where librdkafka does not say it, or says what
 *	  leads astray.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ERROR_HINTS_H
#define OUTBOX_ERROR_HINTS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/config/config.h"

extern bool error_hints_connection(const rd_kafka_t *handle, const char *text,
								   char *error);
extern void error_hints_refusal(const KafkaConfig *config, char *error);

#endif							/* OUTBOX_ERROR_HINTS_H */
