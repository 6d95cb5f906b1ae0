/*-------------------------------------------------------------------------
 *
 * resume_point.h
 *	  What a relay leaves to the next one of the same database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RESUME_POINT_H
#define OUTBOX_RESUME_POINT_H

#include "relay/state/relay.h"
#include "relay/wal/output_plugin.h"

extern void handover_take(Relay *relay);
extern bool handover_covers(const Commit *commit);
extern void handover_leave(Relay *relay, const LedgerPosition *position);

#endif							/* OUTBOX_RESUME_POINT_H */
