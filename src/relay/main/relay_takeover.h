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

#include "core/compat.h"
#include "relay/state/relay.h"

extern void resume_start(Relay *relay);
extern void resume_check_successor(Relay *relay);
pg_noreturn extern void resume_fence(Relay *relay);
pg_noreturn extern void resume_refused(Relay *relay, const char *failure);

#endif							/* OUTBOX_RELAY_TAKEOVER_H */
