/*-------------------------------------------------------------------------
 *
 * catchup.h
 *	  Publishes events that no slot will deliver.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_H
#define OUTBOX_CATCHUP_H

#include "postgres.h"

#include "relay/state/relay.h"

extern uint64 catchup_poll(Relay *relay);
extern bool catchup_reach_slot(Relay *relay);

#endif							/* OUTBOX_CATCHUP_H */
