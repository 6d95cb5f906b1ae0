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

extern bool probe_refuses(Relay *relay, const Message *message, const char *topic);
extern void probe_serve(void);
extern void probe_close(void);

#endif							/* OUTBOX_REFUSAL_PROBE_H */
