/*-------------------------------------------------------------------------
 *
 * send_requests.h
 *	  Which tables may have something to send.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SEND_REQUESTS_H
#define OUTBOX_SEND_REQUESTS_H

#include "postgres.h"

/* May there be something?  Set when somebody asks, and when a relay starts. */
typedef struct SendRequests
{
	bool		replays;		/* jobs of outbox.replay() */
	bool		retries;		/* dead letters to be sent again, or events
								 * that waited behind one */
	bool		free_keys;		/* keys that nothing is in front of any more */
}			SendRequests;

extern SendRequests send_requests;
extern void replay_look(void);
extern void resend_look(void);

#endif							/* OUTBOX_SEND_REQUESTS_H */
