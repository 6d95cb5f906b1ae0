/*-------------------------------------------------------------------------
 *
 * acquaintance.c
 *	  Which partitions know the producer.
 *
 * A broker takes messages of an idempotent producer in their order only, once
 * it has taken one.  Of a producer that it does not know it takes whatever
 * comes first.  When it refuses the very first message of a partition, and the
 * library has made the next request already, it takes that one.  Who wants
 * nothing to pass a refused message must send the first one alone.
 *
 * The partition is found as the library will find it.  Where keys say nothing
 * about it, their messages have no order that could be broken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "base/steady.h"
#include "kafka/handle.h"

/* Brokers forget a producer that is silent for a day, unless told otherwise. */
#define FORGOTTEN_MS (60 * 60 * 1000)

static const struct
{
	const char *name;
	Partitioner partitioner;
}			partitioners[] =

{
	{"consistent", rd_kafka_msg_partitioner_consistent},
	{"consistent_random", rd_kafka_msg_partitioner_consistent},
	{"murmur2", rd_kafka_msg_partitioner_murmur2},
	{"murmur2_random", rd_kafka_msg_partitioner_murmur2},
	{"fnv1a", rd_kafka_msg_partitioner_fnv1a},
	{"fnv1a_random", rd_kafka_msg_partitioner_fnv1a},
};

/*
 * How a producer with that configuration finds the partition of a key; NULL
 * when by chance.
 */
Partitioner
acquaintance_partitioner(const rd_kafka_conf_t *conf)
{
	char		name[64];
	size_t		size = sizeof(name);

	if (rd_kafka_conf_get(conf, "partitioner", name, &size) != RD_KAFKA_CONF_OK)
		return NULL;
	for (int i = 0; i < lengthof(partitioners); i++)
		if (strcmp(partitioners[i].name, name) == 0)
			return partitioners[i].partitioner;
	return NULL;
}

/*
 * The topic has so many partitions.
 */
void
acquaintance_resize(Producer *producer, ProducerTopic *topic, int npartitions)
{
	TimestampTz *acknowledged_at;

	if (npartitions <= topic->npartitions)
		return;
	acknowledged_at = MemoryContextAllocZero(producer->context,
											 npartitions * sizeof(TimestampTz));
	if (topic->acknowledged_at)
	{
		memcpy(acknowledged_at, topic->acknowledged_at,
			   topic->npartitions * sizeof(TimestampTz));
		pfree(topic->acknowledged_at);
	}
	topic->acknowledged_at = acknowledged_at;
	topic->npartitions = npartitions;
}

/*
 * A message was acknowledged, now.
 */
void
acquaintance_note(const rd_kafka_message_t *message, TimestampTz now)
{
	ProducerTopic *topic = message->rkt ? rd_kafka_topic_opaque(message->rkt) : NULL;

	if (topic && message->partition >= 0 &&
		message->partition < topic->npartitions)
		topic->acknowledged_at[message->partition] = now;
}

/*
 * Does the partition that messages of a key go to know the producer?  The
 * topic must be ready.
 */
bool
producer_is_known(const Producer *producer, const ProducerTopic *topic,
				  Slice key)
{
	int32		partition;

	if (producer->partitioner == NULL || key.data == NULL ||
		topic->npartitions == 0)
		return true;
	partition = producer->partitioner(topic->handle, key.data, key.len,
									  topic->npartitions, NULL, NULL);
	return topic->acknowledged_at[partition] != 0 &&
		!TimestampDifferenceExceeds(topic->acknowledged_at[partition],
									steady_now(), FORGOTTEN_MS);
}
