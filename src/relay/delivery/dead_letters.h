/*-------------------------------------------------------------------------
 *
 * dead_letters.h
 *	  Events that Kafka refuses for good, and those that wait behind them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEAD_LETTERS_H
#define OUTBOX_DEAD_LETTERS_H

#include "postgres.h"

#include "utils/hsearch.h"

#include "event/event.h"
#include "relay/delivery/destination.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"

extern void dead_letters_start(Relay *relay);
extern bool dead_letters_unstored(LedgerPosition *position, int64 *id);
extern void dead_letters_before_more(Relay *relay);
extern void dead_letters_met(const Event *event);
extern bool dead_letters_set_aside(Relay *relay, const Event *event,
								   uint64 number);
extern void dead_letters_add(Relay *relay, const Event *event, uint64 number,
							 const char *error_name, const char *error);
extern void dead_letters_park(Relay *relay, const Event *event, uint64 number,
							  const Destination *destination);
extern void dead_letters_rewind(Relay *relay);
extern void dead_letters_store(Relay *relay);
extern bool dead_letters_any_pending(void);
extern void dead_letters_write(Relay *relay);
extern bool dead_letters_leave(Relay *relay);

#endif							/* OUTBOX_DEAD_LETTERS_H */
