/*-------------------------------------------------------------------------
 *
 * publisher_session.h
 *	  What a session that publishes has to do with its relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHER_SESSION_H
#define OUTBOX_PUBLISHER_SESSION_H

#include "postgres.h"

extern void session_publishes(void);
extern void session_committed_prepared(void);

#endif							/* OUTBOX_PUBLISHER_SESSION_H */
