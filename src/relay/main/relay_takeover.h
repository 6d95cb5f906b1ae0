/*-------------------------------------------------------------------------
 *
 * relay_takeover.h
 *	  From where a relay goes on when deliveries are exact.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_TAKEOVER_H
#define OUTBOX_RELAY_TAKEOVER_H

#include "postgres.h"

#include "relay/state/relay.h"

extern void takeover_start(Relay *relay);

#endif							/* OUTBOX_RELAY_TAKEOVER_H */
