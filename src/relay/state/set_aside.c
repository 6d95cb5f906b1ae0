/*-------------------------------------------------------------------------
 *
 * set_aside.c
 *	  Events that are not sent now, as the files about them share them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/state/set_aside.h"

static ResendKind resending = RESEND_NONE;

/*
 * Says what the events are that are sent from now on.
 */
void
deadletter_set_resend(ResendKind kind)
{
	resending = kind;
}

/*
 * What the events are that are sent now.
 */
ResendKind
deadletter_resend(void)
{
	return resending;
}
