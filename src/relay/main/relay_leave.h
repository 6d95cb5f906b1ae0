/*-------------------------------------------------------------------------
 *
 * relay_leave.h
 *	  What a relay does before its process ends, in whatever way.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_LEAVE_H
#define OUTBOX_RELAY_LEAVE_H

#include "postgres.h"

#include "relay/state/relay.h"

extern void leaving_begin(Relay *relay);

#endif							/* OUTBOX_RELAY_LEAVE_H */
