/*-------------------------------------------------------------------------
 *
 * command_guard.h
 *	  Commands that would hide events from the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMMAND_GUARD_H
#define OUTBOX_COMMAND_GUARD_H

#include "postgres.h"

#include "nodes/nodes.h"

extern void command_guard_check(Node *stmt);

#endif							/* OUTBOX_COMMAND_GUARD_H */
