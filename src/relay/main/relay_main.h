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

extern PGDLLEXPORT void outbox_relay_main(Datum arg);

#endif							/* OUTBOX_RELAY_MAIN_H */
