/*-------------------------------------------------------------------------
 *
 * relay_wait.h
 *	  How a relay waits, and what it does now and then meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_WAIT_H
#define OUTBOX_RELAY_WAIT_H

#include "postgres.h"

#include "relay/state/relay.h"

extern void relay_handle_latch(Relay *relay);
extern void relay_tend(Relay *relay);
extern void relay_wait(Relay *relay, long timeout_ms);
extern void relay_wait_for_event(Relay *relay, long timeout_ms);

#endif							/* OUTBOX_RELAY_WAIT_H */
