/*-------------------------------------------------------------------------
 *
 * parked_release.h
 *	  Sends what was parked, once it can be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARKED_RELEASE_H
#define OUTBOX_PARKED_RELEASE_H

#include "postgres.h"

#include "relay/state/relay.h"

extern bool parked_release_is_due(Relay *relay);
extern bool parked_release_step(Relay *relay);

#endif							/* OUTBOX_PARKED_RELEASE_H */
