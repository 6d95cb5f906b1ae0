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

extern void deadletter_start(Relay *relay);
extern bool deadletter_unstored(LedgerPosition *position, int64 *id);
extern void deadletter_before_more(Relay *relay);
extern void deadletter_met(const Event *event);
extern bool deadletter_set_aside(Relay *relay, const Event *event,
								 uint64 number);
extern void deadletter_add(Relay *relay, const Event *event, uint64 number,
						   const char *error_name, const char *error);
extern void deadletter_park(Relay *relay, const Event *event, uint64 number,
							const Destination *destination);
extern void deadletter_rewind(Relay *relay);
extern void deadletter_store(Relay *relay);
extern bool deadletter_any_pending(void);
extern void deadletter_write(Relay *relay);
extern bool deadletter_leave(Relay *relay);

#endif							/* OUTBOX_DEAD_LETTERS_H */
