/*-------------------------------------------------------------------------
 *
 * catchup.h
 *	  Publishes events that no slot will deliver.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_H
#define OUTBOX_CATCHUP_H

#include "relay/state/catchup_progress.h"
#include "relay/state/relay.h"

/* catchup.c */
extern uint64 catchup_poll(Relay *relay);
extern bool catchup_reach_slot(Relay *relay);

/* catchup_round.c */
extern uint64 catchup_publish(Relay *relay, CatchupProgress *round);
extern void catchup_show(Relay *relay);
extern void catchup_leave(Relay *relay);
extern void catchup_leave_before(Relay *relay, int64 id);

#endif							/* OUTBOX_CATCHUP_H */
