/*-------------------------------------------------------------------------
 *
 * dedup.h
 *	  inbox.received: what tells a repeated message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEDUP_H
#define OUTBOX_DEDUP_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "inbox/table/dedup_table.h"

/*
 * The consumer in inbox.received of a subscription begins with it.  The name
 * follows, and, where ids count within a topic, the separator and the topic.
 */
#define RECEIVED_SUBSCRIPTION_PREFIX '@'
#define RECEIVED_TOPIC_SEPARATOR '/'

/*
 * Longest names, in bytes: both must fit into an entry of the index.  The
 * consumers of subscriptions may have a few more, those of a name and a topic.
 */
#define RECEIVED_MAX_CONSUMER 255
#define RECEIVED_MAX_EVENT_ID 2000

/* Did a message come before? */
typedef enum ReceivedVerdict
{
	RECEIVED_NEW,
	RECEIVED_REPEATED,
	RECEIVED_CONFLICTING		/* one of its id did, with another content */
} ReceivedVerdict;

/* A message of a batch. */
typedef struct ReceivedItem
{
	Datum		consumer;		/* text; the same Datum for many is faster */
	Datum		former;			/* text: entries of this consumer count, too;
								 * 0 when there is none */
	Datum		event_id;		/* text */
	Datum		former_id;		/* text: under which such an entry may be, if
								 * it has no hash; the same Datum if no other */
	uint64		hash;			/* of the content */
	TimestampTz since;			/* a new entry is not to be older */
	ReceivedVerdict verdict;	/* set by dedup_add_batch() */
} ReceivedItem;

extern bool dedup_add(Datum consumer, Datum event_id, Datum payload_hash);
extern void dedup_open(ReceivedTable *table);
extern void dedup_close(ReceivedTable *table);
extern void dedup_look_for_any(ReceivedTable *table, Datum consumer,
							   bool *chunks);
extern ReceivedChunk *dedup_find(ReceivedTable *table, Datum consumer,
								 Datum event_id, const bool *chunks);
extern void dedup_fill_slot(ReceivedTable *table, TupleTableSlot *slot,
							Datum consumer, Datum event_id,
							Datum payload_hash, TimestampTz since);
extern bool dedup_ring_has_moved(const ReceivedTable *table);

#endif							/* OUTBOX_DEDUP_H */
