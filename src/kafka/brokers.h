/*-------------------------------------------------------------------------
 *
 * brokers.h
 *	  Lists of brokers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_BROKERS_H
#define OUTBOX_KAFKA_BROKERS_H

#include "postgres.h"

#include "kafka/config.h"

extern void brokers_check(const char *name, const char *value);
extern bool brokers_disagree(const KafkaConfig *config,
							 const char *security_protocol, char *error);

#endif							/* OUTBOX_KAFKA_BROKERS_H */
