/*-------------------------------------------------------------------------
 *
 * send_sequence.h
 *	  Sends a sequence of events that the caller can send again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SEND_SEQUENCE_H
#define OUTBOX_SEND_SEQUENCE_H

#include "postgres.h"

#include "relay/state/relay.h"

extern uint64 sender_begin(Relay *relay);
extern bool sender_finish(Relay *relay);

#endif							/* OUTBOX_SEND_SEQUENCE_H */
