/*-------------------------------------------------------------------------
 *
 * refusal_probe.h
 *	  Asks Kafka whether it refuses an event, beside a Kafka transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REFUSAL_PROBE_H
#define OUTBOX_REFUSAL_PROBE_H

#include "postgres.h"

#include "kafka/producer/producer.h"
#include "relay/state/relay.h"

extern bool refusal_probe_refuses(Relay *relay, const Message *message, const char *topic);
extern void refusal_probe_serve(void);
extern void refusal_probe_close(void);

#endif							/* OUTBOX_REFUSAL_PROBE_H */
