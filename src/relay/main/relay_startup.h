/*-------------------------------------------------------------------------
 *
 * relay_startup.h
 *	  What must be in place before a relay can work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_STARTUP_H
#define OUTBOX_RELAY_STARTUP_H

#include "postgres.h"

#include "relay/state/relay.h"

extern void relay_startup_wait(Relay *relay);

#endif							/* OUTBOX_RELAY_STARTUP_H */
