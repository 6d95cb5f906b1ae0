/*-------------------------------------------------------------------------
 *
 * partition_placement.c
 *	  Which partition a message goes to, and through which of the producer's
 *	  handles.
 *
 * A handle has one request under way to each broker (idempotent_producer.c
 * says why), and the library puts messages of one partition only into a
 * request.  So where Kafka is far away, messages of many partitions would wait
 * for each other.  A producer may have several handles then, each with its own
 * connections, and producer id, and each as safe as a single one:
 *
 *	 - As long as a message of a partition is under way, all others of that
 *	   partition go through the same handle.  So they are in one queue of the
 *	   library, in order, and there is one request of a partition under way at
 *	   most.
 *
 *	 - When nothing of a partition is under way, which is to say that for each
 *	   message there was a report, it may go on through another handle.
 *	   Everything before is written then, so nothing can come behind what is
 *	   sent now, nor be sent again.  For the broker the next message is the first
 *	   of another producer: it takes that, whatever its number, and if it refuses
 *	   it, there is no second request that it could take instead.
 *
 *	 - When any handle is beyond use, the owner closes all of them and starts
 *	   over from what was acknowledged, as with one.
 *
 * So a partition takes its own handle as long as that has nothing else to do
 * with the partition's leader, or else the one that has least to do with it.
 * Where there is always something of partitions under way, they would keep a
 * handle that they share, though there is another one.  Then nothing is sent
 * for the moment that it takes until nothing is under way.
 * The partition is computed here and passed to the library, so that both mean
 * the same one.  Its number of partitions changes only while nothing of a
 * topic is under way, since a key may move to another partition then.
 *
 * Where nothing may pass a refused message (see producer_partitions.c), a
 * partition stays with the handle that it knows, until handles have been
 * added.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/partition_placement.h"

#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/producer/broker_distance.h"
#include "kafka/producer/flush.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

/*
 * Handles are added when messages wait for longer than that because of others,
 * which is nothing near the broker.
 */
#define WAIT_US 4000

/*
 * The same while there is a backlog, of which each request carries a lot.  More
 * handles would cost processors more than they gain: each has threads and
 * requests of its own.
 */
#define BACKLOG_WAIT_US 30000

#define LEAST_ROUND_TRIPS 4		/* that must have been answered before */

/* While handles are being added, no more partitions than that share one. */
#define MOST_SHARING 4

/* Messages whose keys tell nothing go to a partition in such numbers. */
#define RUN 32
#define RUN_LOOKS 16			/* for a partition that is not busy */

/* Partitions that share a handle for so long get others, if there are any. */
#define SHARED_MS 20
#define SHARED_ROUND_TRIPS 4
#define SPREAD_MS 250			/* between looks for such */
#define COMING_MS 500			/* in which a new handle gets usable */
#define TOO_MANY 2				/* times the handles that are wanted */
#define LEAST_USED 4			/* that are not too many */

/*
 * A partition to which a message goes whose key tells nothing: the last one for
 * a while, and then the next, since each takes a request of its own.
 */
static int
any_partition(Producer *producer, ProducerTopic *topic)
{
	int			chosen = -1;

	if (topic->run_left > 0 && topic->run_flushes == producer->flushes &&
		topic->run_partition < topic->npartitions)
	{
		topic->run_left--;
		return topic->run_partition;
	}
	for (int i = 1; i <= topic->npartitions && (chosen < 0 || i <= RUN_LOOKS); i++)
	{
		int			candidate = (topic->run_partition + i) % topic->npartitions;

		if (producer_is_leaderless(topic, candidate, 0))
			continue;
		if (chosen < 0)
			chosen = candidate;
		if (topic->partitions[candidate].outstanding == 0)
		{
			chosen = candidate;
			break;
		}
	}
	topic->run_partition = Max(chosen, 0);
	topic->run_left = RUN - 1;
	topic->run_flushes = producer->flushes;
	return topic->run_partition;
}

/*
 * The partition that a message goes to; -1 when it is the library that finds
 * out, since the topic's partitions are not known yet.
 */
int
placement_partition(Producer *producer, ProducerTopic *topic,
					const Message *message)
{
	int			partition;

	if (message->first_partition)
		return 0;
	if (topic->npartitions == 0)
		return -1;
	partition = producer_partition(producer, topic, message->key);
	return partition >= 0 ? partition : any_partition(producer, topic);
}

/* How the partition is counted; NULL when it is not. */
static ProducerPartition *
find_partition(ProducerTopic *topic, int partition)
{
	return partition >= 0 && partition < topic->npartitions ?
		&topic->partitions[partition] : NULL;
}

/* Leaders are told apart as far as there are slots. */
static int
leader_slot(const ProducerPartition *partition)
{
	return (unsigned int) partition->leader % LEADER_SLOTS;
}

/*
 * Are partitions to stay with the handle that they know, as far as that is
 * possible?
 */
void
producer_pin(Producer *producer, bool pinned)
{
	producer->pinned = pinned;
}

/* May a partition of which nothing is under way be given that handle? */
static bool
may_use(const Producer *producer, const ProducerHandle *handle)
{
	return handle->usable &&
		(producer->nused == 0 || handle->number < producer->nused);
}

/* The handle that has least to do with the leaders of a slot. */
static ProducerHandle *
least_busy(Producer *producer, int slot)
{
	ProducerHandle *least = producer->handles[0];

	for (int i = 1; i < producer->nhandles; i++)
	{
		ProducerHandle *handle = producer->handles[i];

		if (may_use(producer, handle) &&
			handle->leaders[slot].busy < least->leaders[slot].busy)
			least = handle;
	}
	return least;
}

/* The handle that was given the fewest partitions. */
static ProducerHandle *
least_placed(Producer *producer)
{
	ProducerHandle *least = NULL;

	for (int i = 0; i < producer->nhandles; i++)
	{
		ProducerHandle *handle = producer->handles[i];

		if (handle->placements != producer->placements)
			handle->nplaced = 0;
		handle->placements = producer->placements;
		if (handle->usable && (least == NULL || handle->nplaced < least->nplaced))
			least = handle;
	}
	least->nplaced++;
	return least;
}

/* Is a partition, of which nothing is under way, to keep its handle? */
static bool
keeps_handle(const Producer *producer, const ProducerPartition *partition,
			 const ProducerHandle *handle, int slot)
{
	if (!handle->usable)
		return false;
	if (producer->pinned)
		return partition->placed == producer->placements;
	return may_use(producer, handle) && handle->leaders[slot].busy == 0;
}

/*
 * Through which handle a message for that partition goes: a partition of which
 * nothing is under way may be given another one now.
 */
ProducerHandle *
placement_choose(Producer *producer, ProducerTopic *topic, int partition)
{
	ProducerPartition *entry = find_partition(topic, partition);
	ProducerHandle *handle;
	int			slot;

	if (entry == NULL || producer->nhandles == 1)
		return producer->handles[0];
	handle = producer->handles[entry->handle];
	slot = leader_slot(entry);
	if (entry->outstanding > 0 || keeps_handle(producer, entry, handle, slot))
		return handle;
	handle = producer->pinned ? least_placed(producer) : least_busy(producer, slot);
	entry->placed = producer->placements;
	if (entry->handle != handle->number)
	{
		entry->handle = handle->number;
		entry->acknowledged_at = 0;
	}
	return handle;
}

/*
 * A handle does not know the partition yet.  Chooses the first one, which does;
 * false when it is that already, or the partition cannot be moved.
 */
bool
placement_fall_back(Producer *producer, ProducerTopic *topic, int partition,
					ProducerHandle **handle)
{
	ProducerPartition *entry = find_partition(topic, partition);

	if (entry == NULL || entry->handle == 0 || entry->outstanding > 0)
		return false;
	entry->handle = 0;
	entry->acknowledged_at = 0;
	*handle = producer->handles[0];
	return true;
}

/*
 * How many handles it would take for none of so many busy partitions of one
 * leader to wait for long.
 */
static int
wanted_for(const Producer *producer, int busy)
{
	double		wait_us = producer->backlog ? BACKLOG_WAIT_US : WAIT_US;
	double		wanted = busy;

	if (producer->nanswered < LEAST_ROUND_TRIPS)
		return 1;
	wanted *= Min(distance_us(producer) / wait_us, 1);
	return Max(Min((int) wanted, producer->max_handles), 1);
}

/* How many partitions of one leader are busy, at most. */
static int
most_busy(const Producer *producer)
{
	int			most = 0;

	for (int i = 0; i < LEADER_SLOTS; i++)
		most = Max(most, producer->busy[i]);
	return most;
}

/*
 * How many handles are wanted at this moment?
 */
int
placement_wanted(const Producer *producer)
{
	return wanted_for(producer, most_busy(producer));
}

/*
 * So many handles are wanted.  Are there fewer that can be used, but more in a
 * moment, unless something is in the way?
 */
static bool
handles_come(const Producer *producer, int wanted)
{
	int			usable = 0;

	for (int i = 0; i < producer->nhandles; i++)
		usable += producer->handles[i]->usable;
	return wanted > usable &&
		(wanted > producer->nhandles ||
		 (producer->opened_at != 0 &&
		  !TimestampDifferenceExceeds(producer->opened_at, monotonic_now(), COMING_MS)));
}

/*
 * Would the message's partition wait for others, in a handle's queue, though
 * there will be other handles in a moment?
 */
static bool
awaits_handles(Producer *producer, ProducerTopic *topic, int partition)
{
	ProducerPartition *entry = find_partition(topic, partition);
	int			slot;
	int			wanted;

	if (entry == NULL || entry->outstanding > 0 || producer->outstanding == 0)
		return false;
	slot = leader_slot(entry);
	wanted = wanted_for(producer, producer->busy[slot] + 1);
	return wanted > 1 && handles_come(producer, wanted) &&
		least_busy(producer, slot)->leaders[slot].busy >= MOST_SHARING;
}

/* Is there a backlog, and in use for it are far more handles than are wanted? */
static bool
uses_too_many(const Producer *producer)
{
	return producer->backlog &&
		producer->nbusy > TOO_MANY * Max(placement_wanted(producer), LEAST_USED);
}

/* Is there a handle with nothing to do? */
static bool
any_idle(const Producer *producer)
{
	for (int i = 1; i < producer->nhandles; i++)
		if (may_use(producer, producer->handles[i]) &&
			producer->handles[i]->flushing.outstanding == 0)
			return true;
	return false;
}

/*
 * Do partitions share a handle for long, while another one has nothing to do, or
 * are more handles in use than are good?  Then none gets messages until all can
 * get another handle.
 */
void
placement_anew(Producer *producer, TimestampTz now)
{
	int			long_ms = SHARED_MS +
	SHARED_ROUND_TRIPS * distance_us(producer) / 1000;

	if (producer->pinned || producer->spreads ||
		!TimestampDifferenceExceeds(producer->spread_at, now, SPREAD_MS))
		return;
	if (producer->nused > 0 &&
		placement_wanted(producer) > TOO_MANY * producer->nused)
		producer->nused = placement_wanted(producer);
	if (uses_too_many(producer))
	{
		producer->nused = Max(placement_wanted(producer), LEAST_USED);
		producer->spreads = true;
		producer->spread_at = now;
		return;
	}
	for (int i = 0; i < producer->nhandles; i++)
	{
		Flushing   *flushing = &producer->handles[i]->flushing;

		if (flushing->crowded == 0 ||
			!TimestampDifferenceExceeds(flushing->crowded_since, now, long_ms))
			continue;
		producer->spreads = any_idle(producer);
		if (producer->spreads)
			producer->spread_at = now;
		return;
	}
}

/*
 * Must a message wait until others have arrived?  As much as may be is under
 * way, though one handle knows that by itself; or its key may go elsewhere once
 * they have.
 */
bool
placement_must_wait(Producer *producer, const Message *message, int partition)
{
	if (producer->outstanding == 0)
		producer->spreads = false;
	if (producer->spreads || message->topic->new_npartitions > 0 ||
		awaits_handles(producer, message->topic, partition))
		return true;
	return producer->nhandles > 1 && producer->outstanding > 0 &&
		(producer->outstanding >= producer->max_outstanding ||
		 producer->outstanding_bytes + message->key.len + message->value.len >
		 producer->max_outstanding_bytes);
}

/* The partition becomes busy with a message. */
static void
begin_busy(Producer *producer, ProducerHandle *handle,
		   ProducerPartition *partition)
{
	partition->slot = leader_slot(partition);
	if (++handle->leaders[partition->slot].busy == 2 &&
		handle->flushing.crowded++ == 0)
		handle->flushing.crowded_since = monotonic_now();
	handle->flushing.looks |= UINT64CONST(1) << partition->slot;
	producer->busy[partition->slot]++;
}

static void
end_busy(Producer *producer, ProducerHandle *handle,
		 ProducerPartition *partition)
{
	if (--handle->leaders[partition->slot].busy == 1)
		handle->flushing.crowded--;
	producer->busy[partition->slot]--;
}

/*
 * A message for that partition was handed to the handle.
 */
void
placement_note_sent(Producer *producer, ProducerHandle *handle,
					ProducerTopic *topic, const Message *message, int partition)
{
	ProducerPartition *entry = find_partition(topic, partition);

	producer->outstanding++;
	producer->outstanding_bytes += message->key.len + message->value.len;
	if (handle->flushing.outstanding == 0)
	{
		producer->nbusy++;
		producer->most_busy = Max(producer->most_busy, producer->nbusy);
	}
	if (entry == NULL)
	{
		handle->flushing.crowded++;
		handle->flushing.looks |= UINT64CONST(1);
	}
	else if (entry->outstanding++ == 0)
		begin_busy(producer, handle, entry);
}

/*
 * The handle has reported what became of a message, which went to the library
 * for that partition.
 */
void
placement_note_reported(Producer *producer, ProducerHandle *handle,
						const rd_kafka_message_t *message, int partition,
						TimestampTz now)
{
	ProducerTopic *topic = message->rkt ? rd_kafka_topic_opaque(message->rkt) : NULL;
	ProducerPartition *entry = topic ? find_partition(topic, partition) : NULL;

	producer->outstanding--;
	producer->outstanding_bytes -= message->key_len + message->len;
	if (entry == NULL)
		handle->flushing.crowded--;
	else if (--entry->outstanding == 0)
		end_busy(producer, handle, entry);
	flush_note_reported(producer, handle, message, now);
	if (handle->flushing.outstanding == 0)
		producer->nbusy--;
}

/*
 * A request was answered; this is its first message.
 */
void
placement_note_answered(Producer *producer, ProducerHandle *handle,
						const rd_kafka_message_t *message, int partition)
{
	ProducerTopic *topic = message->rkt ? rd_kafka_topic_opaque(message->rkt) : NULL;
	ProducerPartition *entry = topic ? find_partition(topic, partition) : NULL;

	distance_note_answered(producer, handle);
	if (entry == NULL)
		return;
	handle->leaders[entry->slot].answered++;
	handle->flushing.looks |= UINT64CONST(1) << entry->slot;
}
