/*-------------------------------------------------------------------------
 *
 * session.h
 *	  The session of a background worker of ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SESSION_H
#define OUTBOX_SESSION_H

#include "postgres.h"

extern void session_connect(Oid database);
extern void session_lend(void);

#endif							/* OUTBOX_SESSION_H */
