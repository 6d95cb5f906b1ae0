/*-------------------------------------------------------------------------
 *
 * polling.h
 *	  The polling publisher.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_POLLING_H
#define OUTBOX_POLLING_H

#include "postgres.h"

#include "core/compat.h"
#include "relay/state/relay.h"

pg_noreturn extern void polling_run(Relay *relay);
extern void polling_until_slot(Relay *relay);

#endif							/* OUTBOX_POLLING_H */
