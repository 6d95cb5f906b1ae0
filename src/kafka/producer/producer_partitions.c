/*-------------------------------------------------------------------------
 *
 * producer_partitions.c
 *	  Which partitions know the producer, which have no leader, and which topics
 *	  take nothing.
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

#include "kafka/producer/producer_partitions.h"

#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "core/slice.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

/* Brokers forget a producer that is silent for a day, unless told otherwise. */
#define FORGOTTEN_MS (60 * 60 * 1000)

/* Partitions, of topics that nobody uses, that a producer may keep. */
#define MAX_IDLE 256

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
producer_partitions_partitioner(const rd_kafka_conf_t *conf)
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

/* Makes room for so many partitions.  A topic made again may have fewer. */
static void
resize(Producer *producer, ProducerTopic *topic, int npartitions)
{
	ProducerPartition *partitions;
	int			before = topic->npartitions;

	topic->npartitions = npartitions;
	if (npartitions < before)
		memset(topic->partitions + npartitions, 0,
			   (before - npartitions) * sizeof(ProducerPartition));
	if (npartitions <= topic->capacity)
		return;
	partitions = MemoryContextAllocZero(producer->context,
										npartitions * sizeof(ProducerPartition));
	if (topic->partitions)
	{
		memcpy(partitions, topic->partitions,
			   topic->capacity * sizeof(ProducerPartition));
		pfree(topic->partitions);
	}
	topic->partitions = partitions;
	topic->capacity = npartitions;
}

/*
 * The topic has so many partitions now.  A key may go to another one then, so
 * nothing that was sent before may be under way.
 */
static void
set_npartitions(Producer *producer, ProducerTopic *topic, int npartitions)
{
	topic->new_npartitions = 0;
	if (topic->outstanding == 0 || topic->npartitions == 0)
		resize(producer, topic, npartitions);
	else if (npartitions != topic->npartitions)
		topic->new_npartitions = npartitions;
}

/*
 * Takes over what a broker says of the topic's partitions: how many there are,
 * and which of them have no leader.
 */
void
producer_partitions_update(Producer *producer, ProducerTopic *topic,
						   const struct rd_kafka_metadata_topic *answer)
{
	TimestampTz now = monotonic_now();

	set_npartitions(producer, topic, answer->partition_cnt);
	topic->nleaderless = 0;
	for (int i = 0; i < answer->partition_cnt; i++)
	{
		const struct rd_kafka_metadata_partition *said = &answer->partitions[i];
		ProducerPartition *partition;

		if (said->id < 0 || said->id >= topic->npartitions)
			continue;
		partition = &topic->partitions[said->id];
		partition->leader = said->leader;
		if (said->leader >= 0)
		{
			partition->leaderless_since = 0;
			partition->had_leader = true;
		}
		else if (partition->leaderless_since == 0)
			partition->leaderless_since = now;
		topic->nleaderless += partition->leaderless_since != 0;
	}
}

/*
 * A message was handed to the library.
 */
void
producer_partitions_note_sent(ProducerTopic *topic)
{
	if (topic->outstanding++ == 0)
		topic->moved_at = monotonic_now();
}

/*
 * The library has reported, now, what became of a message.
 */
void
producer_partitions_note_reported(Producer *producer, const rd_kafka_message_t *message,
								  bool acknowledged, TimestampTz now)
{
	ProducerTopic *topic = message->rkt ? rd_kafka_topic_opaque(message->rkt) : NULL;

	if (topic == NULL)
		return;
	topic->outstanding--;
	if (acknowledged)
	{
		topic->moved_at = now;
		if (message->partition >= 0 && message->partition < topic->npartitions)
			topic->partitions[message->partition].acknowledged_at = now;
	}
	if (topic->outstanding == 0 && topic->new_npartitions > 0)
		set_npartitions(producer, topic, topic->new_npartitions);
}

/*
 * May messages for the partition, or with -1 for any of the topic, be under
 * way?
 */
bool
producer_is_busy(const ProducerTopic *topic, int partition)
{
	return topic->outstanding > 0 &&
		(partition < 0 || partition >= topic->npartitions ||
		 topic->partitions[partition].had_leader);
}

/*
 * Has the topic been ready since the producer knows it?
 */
bool
producer_was_ready(const ProducerTopic *topic)
{
	return topic->npartitions > 0;
}

/*
 * The partition that messages of a key go to; -1 when the key says nothing
 * about it.  The topic must have been ready.
 */
int
producer_partition(const Producer *producer, const ProducerTopic *topic,
				   Slice key)
{
	if (producer->partitioner == NULL || key.data == NULL ||
		topic->npartitions == 0)
		return -1;
	return producer->partitioner(topic->handle, key.data, key.len,
								 topic->npartitions, NULL, NULL);
}

/*
 * Does the partition that messages of a key go to know the producer?  The
 * topic must be ready.
 */
bool
producer_is_known(const Producer *producer, const ProducerTopic *topic,
				  Slice key)
{
	int			partition = producer_partition(producer, topic, key);
	TimestampTz acknowledged_at;

	if (topic->new_npartitions > 0)
		return false;
	if (partition < 0)
		return true;
	if (producer->nhandles > 1 &&
		topic->partitions[partition].placed != producer->placements)
		return false;			/* it is about to get another handle */
	acknowledged_at = topic->partitions[partition].acknowledged_at;
	return acknowledged_at != 0 &&
		!TimestampDifferenceExceeds(acknowledged_at, monotonic_now(), FORGOTTEN_MS);
}

/* Was the topic not used for so long that its partitions are unknown again? */
static bool
is_idle(const ProducerTopic *topic, TimestampTz now)
{
	return topic->outstanding == 0 &&
		TimestampDifferenceExceeds(Max(topic->used_at, topic->moved_at), now,
								   FORGOTTEN_MS);
}

/*
 * Does the producer keep more topics that nobody uses any more than others, and
 * not just a few?  The library never lets go of a topic, nor of its partitions:
 * it only goes with the handle.  The next producer need not know less than this
 * one of what was idle for so long.
 */
bool
producer_is_overgrown(const Producer *producer)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;
	TimestampTz now = monotonic_now();
	int64		idle = 0;
	int64		all = 0;

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		int			size = Max(topic->npartitions, 1);

		all += size;
		if (is_idle(topic, now))
			idle += size;
	}
	return idle > MAX_IDLE && idle > all / 2;
}

/*
 * Calls the handler, which must not raise an error, for each topic of which
 * messages are under way and none was acknowledged for ms.
 */
void
producer_each_stuck(Producer *producer, int ms, PartitionHandler handler,
					void *arg)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;
	TimestampTz now = monotonic_now();

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->outstanding > 0 &&
			TimestampDifferenceExceeds(topic->moved_at, now, ms))
			handler(arg, topic->name, -1);
}

/*
 * Calls the handler, likewise, for each partition that has had no leader for
 * ms, and of which messages may be under way.
 */
void
producer_each_leaderless(Producer *producer, int ms, PartitionHandler handler,
						 void *arg)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		for (int i = 0; topic->nleaderless > 0 && i < topic->npartitions; i++)
			if (producer_is_busy(topic, i) && producer_is_leaderless(topic, i, ms))
				handler(arg, topic->name, i);
}

/*
 * Is there any partition of the topic without a leader, as far as is known?
 */
bool
producer_lacks_leader(const ProducerTopic *topic)
{
	return topic->nleaderless > 0;
}

/*
 * Has the partition had no leader for at least that many ms, as far as is
 * known?  With -1, is there no partition of the topic that has one?
 */
bool
producer_is_leaderless(const ProducerTopic *topic, int partition, int ms)
{
	TimestampTz since;

	if (topic->nleaderless == 0)
		return false;
	if (partition < 0)
		return topic->nleaderless >= topic->npartitions;
	if (partition >= topic->npartitions)
		return false;
	since = topic->partitions[partition].leaderless_since;
	return since != 0 && TimestampDifferenceExceeds(since, monotonic_now(), ms);
}
