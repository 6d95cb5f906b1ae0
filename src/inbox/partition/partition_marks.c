/*-------------------------------------------------------------------------
 *
 * partition_marks.c
 *	  Whether a partition is still the one that was read.
 *
 * A topic may have been deleted and made again; its log may have been cut,
 * because a broker was restored from an older copy, or one became leader that
 * had not all of it; or another cluster is behind the name.  Offsets tell of it
 * only while the log ends before the position.  Later, messages would be passed
 * over in silence.
 *
 * So marks are stored with the position: where the last two messages in front
 * of it are, and a checksum of each.  Who takes a partition over begins to read
 * at the first mark instead of the position, and compares what comes:
 *
 *	 a mark is there				the log is the one that was read
 *	 something else is in its		it is another one, and nothing of it is
 *	 place, or where nothing was	processed until inbox.seek(); see
 *									lost_messages.c
 *	 nothing, up to the position	nothing is known: retention or compaction has
 *									removed the marks, which is no loss
 *
 * This takes no question of its own, works with any version of Kafka and of the
 * library, and goes by nothing but the messages: what was copied to another
 * cluster, offsets included, goes on.  Only where the marks are not there, the
 * cluster's id decides.
 *
 * There are two of them because in another log the record that ends a
 * transaction of a producer, which no consumer sees, may be in the place of one.
 * For the same reason a message where there was none counts.  Not for those who
 * read what is not committed: they may have read less before.
 *
 * The same is done again, from the marks on, after an error of the partition or
 * a lost connection.  What was fetched is thrown away then: it may be of another
 * log already.
 *
 * A position that nothing was read for, such as after inbox.seek(), gets a mark
 * from the message in front of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/partition_marks.h"

#include "port/pg_bswap.h"
#include "port/pg_crc32c.h"

#include "core/slice.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/process/worker_report.h"
#include "kafka/consumer/consumer.h"

/* The marks that a check goes by. */
static const Mark *
marks_of(const Partition *partition)
{
	return partition->rechecked ? partition->verified : partition->marks;
}

static bool
has_marks(const Partition *partition)
{
	return marks_of(partition)[MARKS - 1].offset >= 0;
}

/* Where a check begins; at the position when there is nothing to be checked. */
static int64
first_offset(const Partition *partition)
{
	const Mark *marks = marks_of(partition);

	for (int i = 0; i < MARKS; i++)
		if (marks[i].offset >= 0)
			return marks[i].offset;
	return Max(partition->at.offset - 1, 0);
}

/*
 * A partition was taken over: it is to be checked, or to get a mark.
 */
void
marks_begin(InboxWorker *worker, Partition *partition)
{
	partition->rechecked = false;
	marks_begin_again(worker, partition);
}

/*
 * It is to be checked once more, by the marks that it was checked by.
 */
void
marks_begin_again(InboxWorker *worker, Partition *partition)
{
	worker->unchecked = true;
	partition->check_from = first_offset(partition);
	partition->check = partition->check_from < partition->at.offset ?
		CHECK_READING : CHECK_DONE;
}

/*
 * It may be another one by now.  What comes of it is thrown away until it is
 * sought: marks_start() says where.
 */
void
marks_doubt(InboxWorker *worker, Partition *partition)
{
	if (!has_marks(partition) || partition->check == CHECK_FAILED)
		return;
	partition->check_from = first_offset(partition);
	partition->check = CHECK_WANTED;
	worker->unchecked = true;
}

/*
 * It may have been another one for a while, and its last marks of that one: it is
 * compared with those by which it was known before.
 */
void
marks_doubt_since(InboxWorker *worker, Partition *partition)
{
	if (partition->check != CHECK_FAILED)
		partition->rechecked = partition->verified[MARKS - 1].offset >= 0;
	marks_doubt(worker, partition);
}

/*
 * The offset from which to read a partition.  Since it was doubted, messages may
 * have been processed that had come before, and are the marks now.
 */
int64
marks_start(Partition *partition)
{
	if (partition->check == CHECK_WANTED)
		partition->check_from = first_offset(partition);
	return partition->check == CHECK_DONE ? partition->at.offset :
		partition->check_from;
}

/*
 * It is read from there from now on.
 */
void
marks_started(Partition *partition)
{
	if (partition->check == CHECK_WANTED)
		partition->check = CHECK_READING;
	partition->matched = false;
	partition->end = -1;
}

/*
 * The library could not read from the start of a check, since the partition
 * begins at low.  Returns false when that was not why.
 */
bool
marks_removed(Partition *partition, int64 low)
{
	if (partition->check == CHECK_DONE || partition->check_from >= low)
		return false;
	partition->check_from = low;
	if (low >= partition->at.offset && !partition->other_cluster)
		partition->check = CHECK_DONE;
	return true;
}

static void
add_bytes(pg_crc32c *crc, Slice bytes)
{
	int32		len = (int32) pg_hton32((uint32) (bytes.data ? bytes.len : -1));

	COMP_CRC32C(*crc, &len, sizeof(len));
	if (bytes.data)
		COMP_CRC32C(*crc, bytes.data, bytes.len);
}

/*
 * A checksum of a message, the same on all machines: of timestamp, key and
 * value, and once more some of the timestamp, by which most others differ.
 */
static int64
checksum(const ConsumerRecord *record)
{
	uint64		time = pg_hton64((uint64) record->timestamp_ms);
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, &time, sizeof(time));
	add_bytes(&crc, record->key);
	add_bytes(&crc, record->value);
	FIN_CRC32C(crc);
	return (int64) (((uint64) crc << 32) | (uint32) record->timestamp_ms);
}

static void
set_mark(Mark *mark, const ConsumerRecord *record)
{
	mark->offset = record->offset;
	mark->checksum = checksum(record);
	mark->time_ms = record->timestamp_ms;
}

/*
 * Sets what the marks of a partition become with the last message that was
 * read, and the one before it, or NULL when there was one only.
 */
void
marks_update(Mark *marks, const Partition *partition,
			 const ConsumerRecord *before, const ConsumerRecord *last)
{
	if (before)
		set_mark(&marks[0], before);
	else
		marks[0] = partition->marks[1];
	set_mark(&marks[1], last);
}

/* It is another one, as is seen at an offset. */
static void
fail(InboxWorker *worker, Partition *partition, int64 offset)
{
	partition->check = CHECK_FAILED;
	partition->check_from = offset;
	partition->suspect = SUSPECT_CONTENT;
	worker->suspects = true;
}

/* All in front of the position was seen. */
static void
finish(InboxWorker *worker, Partition *partition)
{
	if (partition->other_cluster && !partition->matched)
	{
		fail(worker, partition, partition->check_from);
		return;
	}
	partition->other_cluster = false;
	partition->rechecked = false;
	partition->check = CHECK_DONE;
}

/*
 * Is there to be no message at that offset, in front of the position?  Behind the
 * verified marks others have been read since.
 */
static bool
excludes(InboxWorker *worker, const Partition *partition, int64 offset)
{
	return strcmp(worker->subscription->kafka_isolation, "read_committed") == 0 &&
		!(partition->rechecked && offset > partition->verified[MARKS - 1].offset);
}

/* Looks at a message in front of the position. */
static void
compare(InboxWorker *worker, Partition *partition, const ConsumerRecord *record)
{
	const Mark *marks = marks_of(partition);

	for (int i = 0; i < MARKS; i++)
	{
		if (marks[i].offset != record->offset)
			continue;
		if (marks[i].checksum == checksum(record))
		{
			partition->matched = true;
			if (!partition->rechecked)
				partition->marks[i].time_ms = record->timestamp_ms;
		}
		else
			fail(worker, partition, record->offset);
		return;
	}
	if (!has_marks(partition))
	{
		set_mark(&partition->marks[MARKS - 1], record);
		partition->marked = worker->offsets_moved = true;
	}
	else if (excludes(worker, partition, record->offset))
		fail(worker, partition, record->offset);
}

/* Looks at a message; returns whether it is to be processed. */
static bool
take(InboxWorker *worker, Partition *partition, const ConsumerRecord *record)
{
	if (partition->check == CHECK_DONE)
		return true;
	if (partition->check != CHECK_READING ||
		record->offset < partition->check_from)
		return false;
	health_sign(partition);
	if (record->offset < partition->at.offset)
		compare(worker, partition, record);
	else
		finish(worker, partition);
	return partition->check == CHECK_DONE;
}

/*
 * Looks at what was fetched of partitions that are to be checked, and gives back
 * what is not to be processed.
 */
void
marks_check(InboxWorker *worker)
{
	int			n = 0;

	if (!worker->unchecked)
		return;
	for (int i = 0; i < worker->nrecords; i++)
	{
		ConsumerRecord *record = &worker->records[i];
		Partition  *partition = partitions_find(worker, record->topic,
												record->partition);

		if (partition == NULL || take(worker, partition, record))
			worker->records[n++] = *record;
		else
			consumer_release(record, 1);
	}
	worker->nrecords = n;
	worker->unchecked = false;
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->check == CHECK_READING &&
			partition->end >= partition->at.offset)
			finish(worker, partition);
		worker->unchecked |= partition->check != CHECK_DONE;
	}
}
