/*-------------------------------------------------------------------------
 *
 * transactional_id.h
 *	  The name under which a relay's Kafka transactions run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TRANSACTIONAL_ID_H
#define OUTBOX_TRANSACTIONAL_ID_H

#include "postgres.h"

#include "kafka/config/config.h"
#include "relay/state/relay.h"

extern const char *transactional_id_name(const KafkaConfig *config,
										 int generation);
extern void transactional_id_use(Relay *relay, int generation);
extern void transactional_id_take(Relay *relay);

#endif							/* OUTBOX_TRANSACTIONAL_ID_H */
