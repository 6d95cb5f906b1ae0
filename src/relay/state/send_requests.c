/*-------------------------------------------------------------------------
 *
 * send_requests.c
 *	  Which tables may have something to send.
 *
 * Whoever changes them tells, and the relay looks when it gets there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/state/send_requests.h"

SendRequests send_requests = {true, true, true};

/*
 * Somebody may have asked for a replay.
 */
void
replay_look(void)
{
	send_requests.replays = true;
}

/*
 * Somebody may have called outbox.retry() or outbox.discard().
 */
void
resend_look(void)
{
	send_requests.retries = true;
	send_requests.free_keys = true;
}
