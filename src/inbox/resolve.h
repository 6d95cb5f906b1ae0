/*-------------------------------------------------------------------------
 *
 * resolve.h
 *	  What a subscription names: its handler, its server, its role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RESOLVE_H
#define OUTBOX_RESOLVE_H

#include "postgres.h"

extern char *resolve_handler(const char *name, Oid role, Oid *function,
							 bool *takes_array);
extern void check_server(const char *name, Oid role);

#endif							/* OUTBOX_RESOLVE_H */
