/*-------------------------------------------------------------------------
 *
 * handover.h
 *	  What a relay leaves to the next one of the same database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HANDOVER_H
#define OUTBOX_HANDOVER_H

#include "relay/plugin.h"
#include "relay/relay.h"

extern void handover_take(Relay *relay);
extern bool handover_covers(const Commit *commit);
extern void handover_leave(Relay *relay, const LedgerPosition *position);

#endif							/* OUTBOX_HANDOVER_H */
