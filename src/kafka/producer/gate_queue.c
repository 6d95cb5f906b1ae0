/*-------------------------------------------------------------------------
 *
 * gate_queue.c
 *	  The messages that wait at a producer's gate, by partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/gate_queue.h"

#include "utils/memutils.h"

#include "core/slice.h"
#include "kafka/producer/gate_state.h"
#include "kafka/producer/header_pool.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

#define MESSAGE_BYTES 64		/* of a message, beside what is in it */
#define HEADER_BYTES 16			/* likewise of a header */

/* Makes what is known of a partition. */
static GatePartition *
make_partition(Producer *producer, ProducerTopic *topic, int32 number)
{
	GatePartition *partition = MemoryContextAllocZero(producer->context,
													  sizeof(GatePartition));

	if (number >= topic->ngated)
	{
		int			n = Max(number + 1, topic->npartitions);
		Size		size = n * sizeof(GatePartition *);
		GatePartition **gated = MemoryContextAllocZero(producer->context, size);

		if (topic->gated)
		{
			memcpy(gated, topic->gated, topic->ngated * sizeof(GatePartition *));
			pfree(topic->gated);
		}
		topic->gated = gated;
		topic->ngated = n;
	}
	partition->topic = topic;
	partition->number = number;
	topic->gated[number] = partition;
	return partition;
}

/*
 * What is known of a partition; NULL if no message was for it yet.
 */
GatePartition *
gate_find_partition(const ProducerTopic *topic, int32 number)
{
	return number >= 0 && number < topic->ngated ? topic->gated[number] : NULL;
}

/*
 * The same, but makes it.  May raise an error for want of memory.
 */
GatePartition *
gate_partition(Producer *producer, ProducerTopic *topic, int32 number)
{
	GatePartition *partition = gate_find_partition(topic, number);

	return partition ? partition : make_partition(producer, topic, number);
}

/*
 * Is a partition's group, with all that waits, so large that a request for it
 * is no waste, and may it be sent?
 */
bool
gate_has_worthy_group(const Gate *gate, const GatePartition *partition)
{
	int			messages = partition->nheld;
	int64		bytes = partition->held_bytes;

	if (!gate_may_grow(partition))
		return false;
	if (partition->open)
	{
		messages += partition->in_flight;
		bytes += partition->in_flight_bytes;
	}
	return messages >= gate->group_messages || bytes >= gate->worth_bytes;
}

/*
 * How many bytes a message takes in a request, at most.
 */
int64
gate_message_bytes(const Message *message)
{
	int64		bytes = (int64) MESSAGE_BYTES + message->key.len + message->value.len;

	for (int i = 0; i < message->nheaders; i++)
		bytes += HEADER_BYTES + message->headers[i].name_len +
			message->headers[i].value.len;
	return bytes;
}

/* Copies what a slice has behind what is there; returns its length. */
static int
copy_slice(char *target, Slice slice)
{
	if (slice.data == NULL)
		return -1;
	memcpy(target, slice.data, slice.len);
	return slice.len;
}

/*
 * Has a message wait for its turn.  May raise an error for want of memory.
 */
void
gate_hold(Producer *producer, GatePartition *partition, const Message *message,
		  int bytes)
{
	Gate	   *gate = producer->gate;
	HeldMessage *held = MemoryContextAlloc(producer->context,
										   offsetof(HeldMessage, data) +
										   message->key.len + message->value.len);

	held->headers = headers_make(producer, message);
	held->headers->partition = partition->number < message->topic->npartitions ?
		partition->number : -1;
	held->next = NULL;
	held->timestamp_ms = message->timestamp_ms;
	held->opaque = message->opaque;
	held->bytes = bytes;
	held->key_len = copy_slice(held->data, message->key);
	held->value_len = copy_slice(held->data + Max(held->key_len, 0), message->value);
	if (partition->first == NULL)
	{
		partition->first = held;
		dlist_push_tail(&gate->holding, &partition->node);
	}
	else
		partition->last->next = held;
	partition->last = held;
	partition->nheld++;
	partition->held_bytes += bytes;
	gate->nheld++;
	gate->held_bytes += bytes;
}

/*
 * Takes the first message that waits for a partition.
 */
HeldMessage *
gate_take(Gate *gate, GatePartition *partition)
{
	HeldMessage *held = partition->first;

	partition->first = held->next;
	partition->nheld--;
	partition->held_bytes -= held->bytes;
	gate->nheld--;
	gate->held_bytes -= held->bytes;
	if (partition->first == NULL)
		dlist_delete(&partition->node);
	return held;
}

/*
 * May messages be added to a partition's group, or be the first of one?
 */
bool
gate_may_grow(const GatePartition *partition)
{
	return partition->open || partition->in_flight == 0;
}
