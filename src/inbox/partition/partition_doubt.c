/*-------------------------------------------------------------------------
 *
 * partition_doubt.c
 *	  Partitions that something is wrong with, or may be: they are in doubt until
 *	  something comes of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/partition_doubt.h"

#include "inbox/partition/partition_marks.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"

/*
 * It may be another partition by now: it is to be read from its marks on.
 */
void
health_doubt(InboxWorker *worker, Partition *partition)
{
	worker->settled = false;
	partition->health = PARTITION_DOUBTED;
	marks_doubt(worker, partition);
}

/*
 * A topic was made anew, as is seen at one of its partitions: the others are
 * compared with what they were when it was last known to be the one that was read.
 * One that is compared with that already is left alone.
 */
void
health_doubt_topic(InboxWorker *worker, const char *topic)
{
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->lost || partition->gone ||
			partition->check == CHECK_FAILED ||
			(partition->check != CHECK_DONE && partition->rechecked) ||
			strcmp(partition->at.topic, topic) != 0)
			continue;
		marks_doubt_since(worker, partition);
		health_doubt(worker, partition);
	}
}

/*
 * A partition cannot be read.  Called by consumer_fetch(): must not raise an
 * error.
 */
void
health_refused(void *arg, const char *topic, int partition)
{
	InboxWorker *worker = arg;
	Partition  *found = partitions_find(worker, topic, partition);

	if (found == NULL)
		return;
	found->refused = true;
	health_doubt(worker, found);
}

/*
 * There is no topic of that name, or it cannot be read.  One that is there later
 * may be another one.
 */
void
health_missing(InboxWorker *worker, const char *topic)
{
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->health == PARTITION_READ &&
			strcmp(partition->at.topic, topic) == 0)
			health_refused(worker, topic, partition->at.partition);
	}
}
