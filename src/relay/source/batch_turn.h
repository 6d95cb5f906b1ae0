/*-------------------------------------------------------------------------
 *
 * batch_turn.h
 *	  When something may be sent out of turn.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_TURN_H
#define OUTBOX_BATCH_TURN_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "relay/state/relay.h"

extern bool batch_turn_is_due(const Relay *relay);
extern void batch_turn_end(TimestampTz began, int least_pause_ms);
extern long batch_turn_wait_ms(TimestampTz now);

#endif							/* OUTBOX_BATCH_TURN_H */
