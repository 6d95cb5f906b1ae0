/*-------------------------------------------------------------------------
 *
 * broker_list.h
 *	  Lists of brokers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BROKER_LIST_H
#define OUTBOX_BROKER_LIST_H

#include "postgres.h"

#include "kafka/config/config.h"

extern void broker_list_check(const char *name, const char *value);
extern bool broker_list_disagree(const KafkaConfig *config,
								 const char *security_protocol, char *error);

#endif							/* OUTBOX_BROKER_LIST_H */
