/*-------------------------------------------------------------------------
 *
 * losses.c
 *	  Messages that Kafka has removed before they were read.
 *
 * The library stops reading a partition whose next message is not there, and
 * tells once.  The position stays, until inbox.seek() says where to go on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/search.h"

/*
 * A partition does not have the offset that was asked for.  Called by
 * consumer_fetch(): must not raise an error.
 */
void
losses_note(void *arg, const char *topic, int partition)
{
	InboxWorker *worker = arg;
	Partition  *found = partitions_find(worker, topic, partition);

	if (found != NULL && !found->lost)
		found->suspect = worker->suspects = true;
}

/* Kafka does not have the next message of a partition: notes it, if so. */
static void
note_loss(InboxWorker *worker, Partition *partition)
{
	int64		low;
	int64		high;
	char		message[CONSUMER_MESSAGE_LEN];

	if (!consumer_bounds(worker->consumer, partition->at.topic,
						 partition->at.partition, &low, &high,
						 KAFKA_TIMEOUT_MS) ||
		(partition->at.offset >= low && partition->at.offset <= high))
	{
		/* It may be there after all: begin again where we are. */
		partitions_assign(worker);
		return;
	}
	partitions_store_loss(worker, partition, low);
	if (partition->at.offset < low)
		snprintf(message, sizeof(message),
				 "Kafka has removed " INT64_FORMAT " messages of partition %d of topic \"%s\" before they were read; it begins at offset " INT64_FORMAT " now; go on with inbox.seek()",
				 low - partition->at.offset, partition->at.partition,
				 partition->at.topic, low);
	else
		snprintf(message, sizeof(message),
				 "partition %d of topic \"%s\" ends at offset " INT64_FORMAT ", before the position " INT64_FORMAT ": it was made anew, or Kafka has lost messages; go on with inbox.seek()",
				 partition->at.partition, partition->at.topic, high,
				 partition->at.offset);
	health_problem(worker, CONSUMER_DATA_LOST, message);
	partitions_assign(worker);
}

/*
 * Looks at the partitions of which that was said.
 */
void
losses_take(InboxWorker *worker)
{
	if (!worker->suspects)
		return;
	worker->suspects = false;
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (!partition->suspect)
			continue;
		partition->suspect = false;
		note_loss(worker, partition);
	}
}
