/*-------------------------------------------------------------------------
 *
 * slot_limit.h
 *	  Keeps the relay's slot within outbox.max_slot_wal.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SLOT_LIMIT_H
#define OUTBOX_SLOT_LIMIT_H

#include "postgres.h"

#include "relay/state/relay.h"

extern void slot_limit_keep(Relay *relay);

#endif							/* OUTBOX_SLOT_LIMIT_H */
