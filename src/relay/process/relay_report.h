/*-------------------------------------------------------------------------
 *
 * relay_report.h
 *	  What a relay shows of itself, and what its log says when it waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_REPORT_H
#define OUTBOX_RELAY_REPORT_H

#include "postgres.h"

#include "registry/relay_values.h"
#include "relay/state/relay.h"

extern void relay_show(Relay *relay);
extern void relay_show_now(Relay *relay);
extern void relay_work(Relay *relay);
extern void relay_obstacle(Relay *relay, RelayState state, const char *message);

#endif							/* OUTBOX_RELAY_REPORT_H */
