/*-------------------------------------------------------------------------
 *
 * replay.h
 *	  Sends published events again, on request.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REPLAY_H
#define OUTBOX_REPLAY_H

#include "postgres.h"

#include "relay/state/relay.h"

extern bool replay_step(Relay *relay);

#endif							/* OUTBOX_REPLAY_H */
