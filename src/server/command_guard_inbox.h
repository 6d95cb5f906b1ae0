/*-------------------------------------------------------------------------
 *
 * command_guard_inbox.h
 *	  Commands that would have no effect on what consumers write.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMMAND_GUARD_INBOX_H
#define OUTBOX_COMMAND_GUARD_INBOX_H

#include "postgres.h"

#include "nodes/nodes.h"

extern void command_guard_check_inbox(const Node *stmt);

#endif							/* OUTBOX_COMMAND_GUARD_INBOX_H */
