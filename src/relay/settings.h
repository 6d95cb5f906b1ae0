/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  What must be in place before a relay can work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SETTINGS_H
#define OUTBOX_SETTINGS_H

#include "relay/relay.h"

extern bool settings_polling(void);
extern void settings_wait(Relay *relay);
extern bool settings_outdated(Relay *relay);

#endif							/* OUTBOX_SETTINGS_H */
