/*-------------------------------------------------------------------------
 *
 * catchup.h
 *	  Publishes events that no slot will deliver.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_H
#define OUTBOX_CATCHUP_H

#include "relay/relay.h"

extern void catchup_run(Relay *relay);
extern uint64 catchup_poll(Relay *relay);

#endif							/* OUTBOX_CATCHUP_H */
