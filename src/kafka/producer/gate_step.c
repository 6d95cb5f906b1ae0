/*-------------------------------------------------------------------------
 *
 * gate_step.c
 *	  Hands messages that wait at a producer's gate to the library, in groups.
 *
 * A group is begun as soon as there is a message of a partition of which
 * nothing is under way: the library gets it, so that it has the coordinator
 * add the partition to the transaction meanwhile, but has the partition
 * paused.  What comes for the partition joins the group.  It leaves, that is
 * the library may send it, when somebody waits for that, after a second, or
 * when it is so large that it is worth a request of its own.  So a transaction
 * of few messages costs a request for each partition, at its end, and not one
 * for each message, of which a broker that is far away takes few in a second.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/gate_step.h"

#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/producer/flush.h"
#include "kafka/producer/gate_queue.h"
#include "kafka/producer/gate_state.h"
#include "kafka/producer/partition_placement.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

#define FEW 16					/* partitions */
#define OPEN_MS 1000			/* until all groups leave */

typedef rd_kafka_topic_partition_list_t PartitionList;

/* Hands a message to the library, and counts it if the library takes it. */
static rd_kafka_resp_err_t
hand_over(Producer *producer, const GatePartition *partition, HeldMessage *held)
{
	ProducerHandle *handle = producer->handles[0];
	Message		message = {.topic = partition->topic};
	rd_kafka_resp_err_t err;

	if (held->key_len >= 0)
		message.key.data = held->data;
	if (held->value_len >= 0)
		message.value.data = held->data + Max(held->key_len, 0);
	message.key.len = Max(held->key_len, 0);
	message.value.len = Max(held->value_len, 0);
	err = rd_kafka_producev(handle->handle,
							RD_KAFKA_V_RKT(message.topic->handle),
							RD_KAFKA_V_PARTITION(partition->number),
							RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_KEY(message.key.data, message.key.len),
							RD_KAFKA_V_VALUE((void *) message.value.data,
											 message.value.len),
							RD_KAFKA_V_TIMESTAMP(held->timestamp_ms),
							RD_KAFKA_V_HEADERS(held->headers->headers),
							RD_KAFKA_V_OPAQUE(held->headers),
							RD_KAFKA_V_END);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		placement_note_sent(producer, handle, message.topic, &message,
							held->headers->partition);
		flush_note_sent(producer, handle, err);
	}
	return err;
}

/*
 * Hands what waits for a partition to the library, as far as it fits into the
 * group, which the library cannot send meanwhile unless it is of one message.
 * Returns false when the library takes no more now.
 */
static bool
fill_group(Producer *producer, GatePartition *partition)
{
	Gate	   *gate = producer->gate;
	int			max = partition->open ? gate->group_messages : 1;

	while (partition->first && partition->in_flight < max &&
		   (partition->in_flight == 0 ||
			partition->in_flight_bytes + partition->first->bytes <= gate->group_bytes))
	{
		rd_kafka_resp_err_t err = hand_over(producer, partition, partition->first);

		if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL && producer->outstanding > 0)
			return false;
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			/* The transaction has failed, and this is not the reason. */
			gate->err = err == RD_KAFKA_RESP_ERR__STATE ?
				RD_KAFKA_RESP_ERR__PURGE_QUEUE : err;
			return false;
		}
		if (partition->in_flight == 0)
			partition->in_flight_bytes = 0;
		partition->in_flight_bytes += partition->first->bytes;
		pfree(gate_take(gate, partition));
		partition->in_flight++;
	}
	return true;
}

/* Adds a partition to a list that is made when it is needed first. */
static void
add_to(PartitionList **list, const GatePartition *partition)
{
	if (*list == NULL)
		*list = rd_kafka_topic_partition_list_new(FEW);
	rd_kafka_topic_partition_list_add(*list, partition->topic->name,
									  partition->number)->err =
		RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

/* Is a partition's next group to be begun?  A single one may as well leave. */
static bool
begins_group(const GatePartition *partition, bool release)
{
	return partition->in_flight == 0 && !partition->open &&
		(partition->nheld > 1 || !release);
}

/*
 * Has the library pause the partitions of which a group is to be begun.  They
 * are open then, unless the library does not know them.
 */
static void
open_groups(Producer *producer, bool release)
{
	Gate	   *gate = producer->gate;
	PartitionList *paused = NULL;
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &gate->holding)
	{
		GatePartition *partition = dlist_container(GatePartition, node, iter.cur);

		if (begins_group(partition, release))
			add_to(&paused, partition);
	}
	if (paused == NULL)
		return;
	(void) rd_kafka_pause_partitions(producer->handle, paused);
	if (dlist_is_empty(&gate->open))
		gate->opened_at = monotonic_now();
	dlist_foreach(iter, &gate->holding)
	{
		GatePartition *partition = dlist_container(GatePartition, node, iter.cur);

		if (!begins_group(partition, release) ||
			paused->elems[n++].err != RD_KAFKA_RESP_ERR_NO_ERROR)
			continue;
		partition->open = true;
		partition->in_flight_bytes = 0;
		dlist_push_tail(&gate->open, &partition->open_node);
	}
	rd_kafka_topic_partition_list_destroy(paused);
}

/* Hands over what waits for partitions of which nothing is under way. */
static void
fill_groups(Producer *producer)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &producer->gate->holding)
	{
		GatePartition *partition = dlist_container(GatePartition, node, iter.cur);

		if (gate_may_grow(partition) && !fill_group(producer, partition))
			return;
	}
}

/*
 * Lets groups go, all of them or those that are large, and has the library's
 * threads look at them, which sleep.
 */
static void
close_groups(Producer *producer, bool all)
{
	Gate	   *gate = producer->gate;
	PartitionList *resumed = NULL;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &gate->open)
	{
		GatePartition *partition = dlist_container(GatePartition, open_node, iter.cur);

		if (!all && !gate_has_worthy_group(gate, partition))
			continue;
		add_to(&resumed, partition);
		partition->open = false;
		dlist_delete(&partition->open_node);
	}
	if (resumed == NULL)
		return;
	(void) rd_kafka_resume_partitions(producer->handle, resumed);
	rd_kafka_topic_partition_list_destroy(resumed);
	(void) rd_kafka_flush(producer->handle, 0);
}

/*
 * Are groups to leave, however small they are?  Nothing shall seem to be stuck.
 */
static bool
is_due(const Producer *producer)
{
	Gate	   *gate = producer->gate;

	return producer->hurried ||
		(!dlist_is_empty(&gate->open) &&
		 TimestampDifferenceExceeds(gate->opened_at, monotonic_now(), OPEN_MS));
}

/*
 * Can nothing be handed over, whatever waits?
 */
bool
gate_is_shut(const Producer *producer)
{
	const Gate *gate = producer->gate;

	return producer->call || gate->err != RD_KAFKA_RESP_ERR_NO_ERROR ||
		(gate->alone && producer->outstanding > 0);
}

/*
 * Hands over what waits for partitions of which nothing is under way.  The
 * library may send it now if it is much, or is to be released, or after a
 * while, or if nothing more comes before the end of the transaction.
 */
void
gate_step(Producer *producer, bool release)
{
	Gate	   *gate = producer->gate;

	release |= is_due(producer);
	if (gate->stepping || producer->call)
		return;
	gate->stepping = true;
	if (gate->nheld > 0 && !gate_is_shut(producer))
	{
		open_groups(producer, release);
		fill_groups(producer);
	}
	close_groups(producer, release);
	gate->stepping = false;
}
