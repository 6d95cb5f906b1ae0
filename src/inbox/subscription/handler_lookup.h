/*-------------------------------------------------------------------------
 *
 * handler_lookup.h
 *	  What a subscription names: its handler, its server and its group.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HANDLER_LOOKUP_H
#define OUTBOX_HANDLER_LOOKUP_H

#include "postgres.h"

/* Which function of a name a handler is. */
typedef enum HandlerKind
{
	HANDLER_OF_ANY,				/* not known */
	HANDLER_OF_ONE,				/* f(inbox.message) */
	HANDLER_OF_MANY				/* f(inbox.message[]) */
} HandlerKind;

extern char *resolve_handler(const char *name, HandlerKind kind, Oid role,
							 Oid *function, bool *takes_array);
extern void check_server(const char *name, Oid role);
extern void check_group_rights(const char *group, const char *server);

#endif							/* OUTBOX_HANDLER_LOOKUP_H */
