/*-------------------------------------------------------------------------
 *
 * command_hooks.h
 *	  Hooks into PostgreSQL that tell launcher and relays what SQL changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMMAND_HOOKS_H
#define OUTBOX_COMMAND_HOOKS_H

#include "postgres.h"

extern void hooks_init(void);

#endif							/* OUTBOX_COMMAND_HOOKS_H */
