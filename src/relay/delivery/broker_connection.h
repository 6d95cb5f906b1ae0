/*-------------------------------------------------------------------------
 *
 * broker_connection.h
 *	  Whether Kafka can be reached.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BROKER_CONNECTION_H
#define OUTBOX_BROKER_CONNECTION_H

#include "postgres.h"

#include "relay/state/relay.h"

extern bool connection_has_error(const Relay *relay);
extern const char *connection_error(const Relay *relay);
extern bool connection_answers(Relay *relay, BrokerQuestion *question);
extern bool connection_is_up(Relay *relay);
extern void connection_check(Relay *relay);
extern void connection_wait(Relay *relay);

#endif							/* OUTBOX_BROKER_CONNECTION_H */
