/*-------------------------------------------------------------------------
 *
 * worker_session.h
 *	  The session of a background worker of ours.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_SESSION_H
#define OUTBOX_WORKER_SESSION_H

#include "postgres.h"

extern void session_connect(Oid database);
extern void session_adopt(Oid role);
extern bool session_is_outdated(void);
extern void session_lend(Oid role);

#endif							/* OUTBOX_WORKER_SESSION_H */
