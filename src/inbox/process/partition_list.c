/*-------------------------------------------------------------------------
 *
 * partition_list.c
 *	  The partitions of a worker, by topic and number.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/process/partition_list.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"

/* An entry of worker->partition_table. */
typedef struct PartitionEntry
{
	TopicPartition key;			/* hash key */
	Partition  *partition;
} PartitionEntry;

static uint32
hash_key(const void *key, Size size)
{
	const TopicPartition *of = key;

	return hash_combine(string_hash(of->topic, sizeof(of->topic)),
						murmurhash32(of->partition));
}

static int
match_keys(const void *a, const void *b, Size size)
{
	const TopicPartition *one = a;
	const TopicPartition *other = b;

	return one->partition != other->partition ||
		strcmp(one->topic, other->topic) != 0;
}

/*
 * Makes an empty table of entries that begin with a TopicPartition.
 */
HTAB *
partitions_table(const char *name, Size entrysize, MemoryContext context)
{
	HASHCTL		ctl = {
		.keysize = sizeof(TopicPartition),
		.entrysize = entrysize,
		.hash = hash_key,
		.match = match_keys,
		.hcxt = context,
	};

	return hash_create(name, 256, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/*
 * Makes the key of a partition.
 */
void
partitions_key(TopicPartition *key, const char *topic, int partition)
{
	strlcpy(key->topic, topic, CONSUMER_TOPIC_LEN);
	key->partition = partition;
}

/*
 * The partition that the worker reads under this name, or NULL.
 */
Partition *
partitions_find(InboxWorker *worker, const char *topic, int partition)
{
	TopicPartition key;
	PartitionEntry *entry;

	if (worker->npartitions == 0)
		return NULL;
	partitions_key(&key, topic, partition);
	entry = hash_search(worker->partition_table, &key, HASH_FIND, NULL);
	return entry ? entry->partition : NULL;
}

/* Nothing is known of a partition yet. */
static void
init_marks(Partition *partition)
{
	for (int i = 0; i < MARKS; i++)
		partition->verified[i].offset = partition->asked[i].offset = -1;
	partition->watch_offset = -1;
}

/*
 * Adds a partition that the worker does not read yet.
 */
Partition *
partitions_add(InboxWorker *worker, const char *topic, int number)
{
	Partition  *partition = MemoryContextAllocZero(TopMemoryContext,
												   sizeof(Partition));
	TopicPartition key;
	PartitionEntry *entry;
	int			n = worker->npartitions;

	if (worker->partition_table == NULL)
		worker->partition_table = partitions_table("outbox partitions",
												   sizeof(PartitionEntry),
												   TopMemoryContext);
	/* The room doubles whenever it is used up. */
	if (n == 0)
		worker->partitions = MemoryContextAlloc(TopMemoryContext,
												sizeof(Partition *));
	else if ((n & (n - 1)) == 0)
		worker->partitions = repalloc(worker->partitions,
									  sizeof(Partition *) * n * 2);
	strlcpy(partition->at.topic, topic, CONSUMER_TOPIC_LEN);
	partition->at.partition = number;
	partition->end = partition->known_end = -1;
	init_marks(partition);
	partitions_key(&key, topic, number);
	entry = hash_search(worker->partition_table, &key, HASH_ENTER, NULL);
	entry->partition = partition;
	worker->partitions[worker->npartitions++] = partition;
	return partition;
}
