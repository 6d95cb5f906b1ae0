/*-------------------------------------------------------------------------
 *
 * dead_letter_retry.h
 *	  Sends dead letters again, and events that waited behind one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEAD_LETTER_RETRY_H
#define OUTBOX_DEAD_LETTER_RETRY_H

#include "postgres.h"

#include "relay/state/relay.h"

extern long dead_letter_retry_wait_ms(const Relay *relay, long at_most);
extern bool dead_letter_retry_step(Relay *relay);

#endif							/* OUTBOX_DEAD_LETTER_RETRY_H */
