/*-------------------------------------------------------------------------
 *
 * probe.h
 *	  Asks Kafka whether it refuses an event, beside a Kafka transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROBE_H
#define OUTBOX_PROBE_H

#include "relay/relay.h"

extern bool probe_refuses(Relay *relay, const Message *message, const char *topic);
extern void probe_serve(void);
extern void probe_close(void);

#endif							/* OUTBOX_PROBE_H */
