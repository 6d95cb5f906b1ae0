/*-------------------------------------------------------------------------
 *
 * release.h
 *	  Sends what was parked, once it can be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELEASE_H
#define OUTBOX_RELEASE_H

#include "relay/relay.h"

extern bool release_is_due(Relay *relay);
extern bool release_step(Relay *relay);

#endif							/* OUTBOX_RELEASE_H */
