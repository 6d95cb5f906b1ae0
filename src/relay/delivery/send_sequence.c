/*-------------------------------------------------------------------------
 *
 * send_sequence.c
 *	  Sends a sequence of events that the caller can send again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/send_sequence.h"

#include "relay/delivery/sender.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"

/*
 * Begins to send a sequence of events that the caller can send again.  Returns
 * how many of it are acknowledged already and to be left out: none unless
 * sender_finish() returned false.
 *
 * In a Kafka transaction that never happens, and there may be a sequence before
 * it that the ledger has not passed.
 */
uint64
sender_begin(Relay *relay)
{
	relay->can_resend = true;
	relay->broken = false;
	return relay->exact ? 0 : ledger_position(relay->ledger).events;
}

/*
 * Waits until the whole sequence is acknowledged.  Returns false when it is
 * not, and the caller has to go back to sender_begin().
 */
bool
sender_finish(Relay *relay)
{
	if (!relay->broken)
		sender_drain(relay);
	relay->can_resend = false;
	return !relay->broken;
}
