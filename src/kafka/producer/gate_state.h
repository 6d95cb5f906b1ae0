/*-------------------------------------------------------------------------
 *
 * gate_state.h
 *	  What is kept of a gate and of the messages that wait at it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GATE_STATE_H
#define OUTBOX_GATE_STATE_H

#include "postgres.h"

#include "lib/ilist.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

typedef struct HeldMessage
{
	struct HeldMessage *next;
	HeaderList *headers;
	int64		timestamp_ms;
	uint64		opaque;
	int			bytes;			/* in a request, at most */
	int			key_len;		/* -1 for NULL */
	int			value_len;		/* likewise */
	char		data[FLEXIBLE_ARRAY_MEMBER];	/* the key, then the value */
} HeldMessage;

struct GatePartition
{
	dlist_node	node;			/* in the gate's list, while it holds any */
	dlist_node	open_node;		/* in the list of those that are open */
	ProducerTopic *topic;
	int32		number;
	bool		open;			/* the group is not under way yet, since the
								 * library has the partition paused */
	int			in_flight;		/* messages of the group that the library has */
	int64		in_flight_bytes;	/* of them, in a request */
	HeldMessage *first;			/* of those that wait; NULL for none */
	HeldMessage *last;
	int			nheld;
	int64		held_bytes;		/* of them, in requests */
};

struct Gate
{
	dlist_head	holding;		/* partitions that hold messages */
	dlist_head	open;			/* partitions that are paused */
	TimestampTz opened_at;		/* the first of them, by monotonic_now() */
	int			nheld;			/* messages that wait, of all partitions */
	int64		held_bytes;
	int			max_held;
	int64		max_held_bytes;
	int			group_messages; /* that fit into one request */
	int			group_bytes;
	int			worth_bytes;	/* of a group that need not grow */
	uint64		nsent;
	bool		alone;			/* a message is under way of which nobody
								 * knows the partition */
	rd_kafka_resp_err_t err;	/* by which the transaction has failed */
	bool		stepping;		/* messages are being handed over */
};

#endif							/* OUTBOX_GATE_STATE_H */
