/*-------------------------------------------------------------------------
 *
 * losses.c
 *	  Messages that Kafka has removed before they were read, and partitions that
 *	  are not what was read.
 *
 * The library stops reading a partition whose next message is not there, and
 * tells once; since version 2.1 also when it has found out that the log was cut.
 * That a partition is another one than was read is found in its messages; see
 * marks.c.  The position stays, until inbox.seek() says where to go on.
 *
 *	 removed	the partition begins behind the position
 *	 cut		a part of it is gone, and new messages take its place: the first
 *				of them that is younger than what was read last
 *	 replaced	there is none that is older: the topic was made anew, or is that of
 *				another cluster
 *	 beyond		the partition ends before the position, at which nothing was read:
 *				inbox.seek() went too far
 *
 * Cut or replaced is told by timestamps, which may be wrong, for those who have
 * to act.  What is taken for repeated after inbox.seek() does not depend on it:
 * see message.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/search.h"

#include "utils/memutils.h"

#include "inbox/marks.h"

/* So much may the clocks of producers and this server differ. */
#define CLOCK_DIFFERENCE_MS 1000

/*
 * A partition does not have the offset that was asked for.  Called by
 * consumer_fetch(): must not raise an error.
 */
void
losses_note(void *arg, const char *topic, int partition)
{
	InboxWorker *worker = arg;
	Partition  *found = partitions_find(worker, topic, partition);

	if (found == NULL || found->lost || found->suspect != SUSPECT_NOTHING)
		return;
	found->suspect = SUSPECT_OFFSET;
	worker->suspects = true;
}

/* Stores and shows what is not there. */
static void
report(InboxWorker *worker, Partition *partition, int64 from, int64 until,
	   const char *reason, const char *message)
{
	partitions_store_loss(worker, partition, from, until, reason);
	health_problem(worker, CONSUMER_DATA_LOST,
				   psprintf("partition %d of topic \"%s\" %s; go on with inbox.seek()",
							partition->at.partition, partition->at.topic, message));
}

/* Kafka has removed messages that were not read. */
static void
report_removed(InboxWorker *worker, Partition *partition, int64 low)
{
	report(worker, partition, partition->at.offset, low, "removed",
		   psprintf("begins at offset " INT64_FORMAT ": Kafka has removed " INT64_FORMAT " messages before they were read",
					low, low - partition->at.offset));
}

/*
 * A partition is not what was read, or ends before the position.  Returns false
 * when Kafka does not say more.
 */
static bool
report_other(InboxWorker *worker, Partition *partition, int64 low)
{
	int64		position = partition->at.offset;
	int64		until = partition->check == CHECK_FAILED ?
	partition->check_from : position;
	int64		younger;

	if (!consumer_find_offset(worker->consumer, partition->at.topic,
							  partition->at.partition,
							  Max(partitions_read_at(worker, partition) - CLOCK_DIFFERENCE_MS, 0),
							  &younger, KAFKA_TIMEOUT_MS))
		return false;
	if (partition->other_cluster || younger <= low || younger > until)
		report(worker, partition, low, position, "replaced",
			   partition->other_cluster ? "is that of another cluster, not the one that was read" :
			   "is not the one that was read: the topic was made anew, or is that of another cluster");
	else
		report(worker, partition, younger, position, "cut",
			   psprintf("was cut: what it had from about offset " INT64_FORMAT " on, up to the position " INT64_FORMAT ", is not there any more, and other messages take its place",
						younger, position));
	return true;
}

/*
 * Looks what is wrong with a partition.  Returns false when nothing is, or that
 * could not be seen, so that it is to be read again.
 */
static bool
look(InboxWorker *worker, Partition *partition)
{
	bool		is_other = partition->suspect == SUSPECT_CONTENT;
	int64		low;
	int64		high;

	partition->suspect = SUSPECT_NOTHING;
	if (!consumer_bounds(worker->consumer, partition->at.topic,
						 partition->at.partition, &low, &high,
						 KAFKA_TIMEOUT_MS))
		return false;
	if (is_other)
		return report_other(worker, partition, low);
	if (partition->at.offset < low)
	{
		report_removed(worker, partition, low);
		return true;
	}
	if (partition->at.offset > high)
	{
		if (partition->marks[MARKS - 1].offset >= 0 || partition->other_cluster)
			return report_other(worker, partition, low);
		report(worker, partition, partition->at.offset, high, "beyond",
			   psprintf("ends at offset " INT64_FORMAT ", before the position " INT64_FORMAT ", at which nothing was read yet",
						high, partition->at.offset));
		return true;
	}
	if (!marks_removed(partition, low))
		marks_doubt(worker, partition);
	return false;
}

/* What was seen of it may not have been all: it is to be looked at again. */
static void
begin_again(InboxWorker *worker, Partition *partition)
{
	if (partition->check == CHECK_FAILED)
		marks_begin(worker, partition);
}

/*
 * Looks at the partitions of which that was said.
 */
void
losses_take(InboxWorker *worker)
{
	MemoryContext context = NULL;
	MemoryContext old = CurrentMemoryContext;

	if (!worker->suspects)
		return;
	worker->suspects = false;
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->suspect == SUSPECT_NOTHING)
			continue;
		if (context == NULL)
			context = AllocSetContextCreate(TopMemoryContext, "outbox losses",
											ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(context);
		if (!look(worker, partition))
			begin_again(worker, partition);
	}
	if (context == NULL)
		return;
	partitions_assign(worker);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
