/*-------------------------------------------------------------------------
 *
 * relay_main.h
 *	  The relay: the background worker that publishes one database's events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_MAIN_H
#define OUTBOX_RELAY_MAIN_H

#include "postgres.h"

#include "registry/relay_values.h"
#include "relay/state/relay.h"

extern PGDLLEXPORT void outbox_relay_main(Datum arg);
extern void relay_show(Relay *relay);
extern void relay_show_now(Relay *relay);
extern void relay_work(Relay *relay);
extern void relay_obstacle(Relay *relay, RelayState state, const char *message);
extern void relay_handle_latch(Relay *relay);
extern void relay_tend(Relay *relay);
extern void relay_wait(Relay *relay, long timeout_ms);

#endif							/* OUTBOX_RELAY_MAIN_H */
