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

extern bool explain_connection(const rd_kafka_t *handle, const char *text,
							   char *error);
extern void explain_refusal(const KafkaConfig *config, char *error);

#endif							/* OUTBOX_ERROR_HINTS_H */
