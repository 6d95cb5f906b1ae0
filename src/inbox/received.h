/*-------------------------------------------------------------------------
 *
 * received.h
 *	  inbox.received: what tells a repeated message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RECEIVED_H
#define OUTBOX_RECEIVED_H

#include "postgres.h"

/* The consumer in inbox.received of a subscription begins with it. */
#define RECEIVED_SUBSCRIPTION_PREFIX '@'

/* Longest names, in bytes: both must fit into an entry of the index. */
#define RECEIVED_MAX_CONSUMER 255
#define RECEIVED_MAX_EVENT_ID 2000

extern bool received_add(Datum consumer, Datum event_id, Datum payload_hash);
extern void received_add_batch(Datum consumer, const Datum *event_ids, int n,
							   bool *fresh);

#endif							/* OUTBOX_RECEIVED_H */
