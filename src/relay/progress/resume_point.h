/*-------------------------------------------------------------------------
 *
 * resume_point.h
 *	  What a relay leaves to the next one of the same database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RESUME_POINT_H
#define OUTBOX_RESUME_POINT_H

#include "postgres.h"

#include "relay/state/commit.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"

extern void resume_point_take(Relay *relay);
extern bool resume_point_covers(const Commit *commit);
extern void resume_point_leave(Relay *relay, const LedgerPosition *position);

#endif							/* OUTBOX_RESUME_POINT_H */
