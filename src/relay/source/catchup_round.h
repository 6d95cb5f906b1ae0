/*-------------------------------------------------------------------------
 *
 * catchup_round.h
 *	  Publishes the events of one round of catch-up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_ROUND_H
#define OUTBOX_CATCHUP_ROUND_H

#include "postgres.h"

#include "relay/state/catchup_progress.h"
#include "relay/state/relay.h"

extern uint64 catchup_publish(Relay *relay, CatchupProgress *round);
extern void catchup_show(Relay *relay);
extern void catchup_leave(Relay *relay);
extern void catchup_leave_before(Relay *relay, int64 id);

#endif							/* OUTBOX_CATCHUP_ROUND_H */
