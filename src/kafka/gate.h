/*-------------------------------------------------------------------------
 *
 * gate.h
 *	  What the files about the gate of a producer share; see gate.c.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_GATE_H
#define OUTBOX_KAFKA_GATE_H

#include "postgres.h"

#include "lib/ilist.h"

#include "kafka/handle.h"

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
	ProducerTopic *topic;
	int32		number;
	int			in_flight;		/* messages of the group that is under way */
	HeldMessage *first;			/* of those that wait; NULL for none */
	HeldMessage *last;
	int			nheld;
	int64		held_bytes;		/* of them, in requests */
};

struct Gate
{
	dlist_head	holding;		/* partitions that hold messages */
	int			nheld;			/* in all of them */
	int64		held_bytes;
	int			max_held;
	int64		max_held_bytes;
	int			group_messages; /* that fit into one request */
	int			group_bytes;
	uint64		nsent;
	bool		alone;			/* a message is under way of which nobody
								 * knows the partition */
	rd_kafka_resp_err_t err;	/* by which the transaction has failed */
	bool		stepping;		/* messages are being handed over */
};

/* gate_queue.c */
extern GatePartition *gate_find_partition(const ProducerTopic *topic,
										  int32 number);
extern GatePartition *gate_partition(Producer *producer, ProducerTopic *topic,
									 int32 number);
extern bool gate_has_full_group(const Gate *gate,
								const GatePartition *partition);
extern int64 gate_message_bytes(const Message *message);
extern void gate_hold(Producer *producer, GatePartition *partition,
					  const Message *message, int bytes);
extern HeldMessage *gate_take(Gate *gate, GatePartition *partition);

#endif							/* OUTBOX_KAFKA_GATE_H */
