/*-------------------------------------------------------------------------
 *
 * partition_lag.c
 *	  Where partitions end, and how many messages are still to be read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/process/partition_lag.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"

#define FEW_PARTITIONS 100
#define KNOWN_MS 1000			/* that their end is relied on, if there are
								 * more */

/* Asks the library for the end of a partition, as the last messages told it. */
static void
ask_end(InboxWorker *worker, Partition *partition, TimestampTz now)
{
	int64		end;

	if (!partition->gone &&
		consumer_known_end(worker->consumer, partition->at.topic,
						   partition->at.partition, &end))
		partition->known_end = end;
	partition->known_at = now;
}

/*
 * Where a partition ends, as far as is known; -1 when it is not.  The library
 * goes through all topics to find one, so with many partitions what it told is
 * good for a second.
 */
int64
partitions_end(InboxWorker *worker, Partition *partition)
{
	TimestampTz now = monotonic_now();

	if (worker->npartitions <= FEW_PARTITIONS ||
		TimestampDifferenceExceeds(partition->known_at, now, KNOWN_MS))
		ask_end(worker, partition, now);
	return Max(partition->known_end, partition->end);
}

/*
 * How many messages are still to be read; -1 when that is not known yet.  With
 * many partitions the ends of some are asked for, in turn: those that messages
 * come of are known.
 */
int64
partitions_lag(InboxWorker *worker)
{
	TimestampTz now = monotonic_now();
	int64		lag = 0;

	if (worker->npartitions == 0 && !worker->complete)
		return -1;
	for (int i = 0; i < Min(worker->npartitions, FEW_PARTITIONS); i++)
	{
		worker->next_end = (worker->next_end + 1) % worker->npartitions;
		ask_end(worker, worker->partitions[worker->next_end], now);
	}
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];
		int64		end = Max(partition->known_end, partition->end);

		if (partition->gone)
			continue;
		if (end < 0)
			return -1;
		lag += Max(end - partition->at.offset, 0);
	}
	return lag;
}
