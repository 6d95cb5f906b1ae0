/*-------------------------------------------------------------------------
 *
 * lost_messages.c
 *	  Messages that Kafka has removed before they were read, and partitions that
 *	  are not what was read.
 *
 * The library stops reading a partition whose next message is not there, and
 * tells once; since version 2.1 also when it has found out that the log was cut.
 * That a partition is another one than was read is found in its messages; see
 * partition_marks.c.  The position stays, until inbox.seek() says where to go
 * on.
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

#include "inbox/partition/lost_messages.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/partition/assignment.h"
#include "inbox/partition/partition_doubt.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/partition/search_state.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/process/worker_report.h"
#include "inbox/process/worker_wait.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

/*
 * So long others wait for Kafka to tell of partitions; the rest is read again,
 * which brings it here again.
 */
#define LONGEST_MS 1000

/* Between two looks at one whose position somebody has locked. */
#define AGAIN_MS 1000

/* So much may the clocks of producers and this server differ. */
#define CLOCK_DIFFERENCE_MS 1000

/* So long one question to Kafka may take, however far away it is. */
#define LONGEST_QUESTION_MS 10000

/* The condition for the position of a partition. */
#define OF_PARTITION \
	" WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" AND topic OPERATOR(pg_catalog.=) $2" \
	" AND partition OPERATOR(pg_catalog.=) $3"

/*
 * A partition does not have the offset that was asked for.  Called by
 * consumer_fetch(): must not raise an error.
 */
void
lost_messages_note(void *arg, const char *topic, int partition)
{
	InboxWorker *worker = arg;
	Partition  *found = partitions_find(worker, topic, partition);

	if (found == NULL || found->lost || found->suspect != SUSPECT_NOTHING)
		return;
	found->suspect = SUSPECT_OFFSET;
	worker->suspects = true;
}

/*
 * How long one question to Kafka may take, in ms: more than the answers that the
 * worker has had took, since it waits behind a request for messages.
 */
static int
question_ms(const InboxWorker *worker)
{
	return Min(2 * worker->patience_ms, LONGEST_QUESTION_MS);
}

/*
 * Runs a statement about one partition's position: parameters 4 and 5 are
 * numbers, 6 is a text or NULL, and 7 the fence.  Returns whether it has a row.
 */
static bool
run(const char *query, InboxWorker *worker, const Partition *partition,
	int64 number, int64 other, const char *string, int expected)
{
	Oid			types[7] = {TEXTOID, TEXTOID, INT4OID, INT8OID, INT8OID, TEXTOID,
	INT8OID};
	Datum		args[7] = {CStringGetTextDatum(worker->subscription->name),
		CStringGetTextDatum(partition->at.topic),
		Int32GetDatum(partition->at.partition), Int64GetDatum(number),
		Int64GetDatum(other), string ? CStringGetTextDatum(string) : (Datum) 0,
	Int64GetDatum(partition->fence)};

	if (SPI_execute_with_args(query, 7, types, args, string ? NULL : "     n ",
							  false, 0) != expected)
		elog(ERROR, "query failed: %s", query);
	return SPI_processed > 0;
}

/*
 * When the partition was known to be the one that was read, as a Unix time in ms:
 * when it was verified, or when the position was last stored.
 */
static int64
read_at(InboxWorker *worker, Partition *partition)
{
	bool		isnull;
	int64		time = 0;

	if (partition->rechecked)
		return partition->verified_ms;
	worker_begin_sql();
	if (run("SELECT (EXTRACT(epoch FROM updated_at) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8"
			" FROM inbox.position" OF_PARTITION, worker, partition, 0, 0, NULL,
			SPI_OK_SELECT))
		time = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										   SPI_tuptable->tupdesc, 1, &isnull));
	worker_commit_sql();
	return time;
}

/*
 * Stores that messages are not there any more, or others are: from an offset
 * until another; reason as in inbox.position.  Nothing is read of the partition
 * until inbox.seek().  Returns false, and does nothing, when somebody has locked
 * the row: inbox.seek() may have been called in a transaction that is still
 * open, and other partitions shall not wait for its end.
 */
static bool
store_loss(InboxWorker *worker, Partition *partition, int64 from,
		   int64 until, const char *reason)
{
	bool		locked;

	worker_begin_sql();
	locked = run("SELECT FROM inbox.position" OF_PARTITION
				 " AND fence OPERATOR(pg_catalog.=) $7 FOR NO KEY UPDATE SKIP LOCKED",
				 worker, partition, from, until, reason, SPI_OK_SELECT);
	if (locked)
		run("UPDATE inbox.position SET lost_from = $4, lost_until = $5, lost_reason = $6"
			OF_PARTITION " AND fence OPERATOR(pg_catalog.=) $7", worker, partition, from,
			until, reason, SPI_OK_UPDATE);
	worker_commit_sql();
	if (locked)
	{
		partition->lost = true;
		worker->settled = false;
	}
	return locked;
}

/*
 * Stores and shows what is not there; or has it looked at again, when it cannot
 * be stored now.
 */
static void
report(InboxWorker *worker, Partition *partition, int64 from, int64 until,
	   const char *reason, const char *message)
{
	if (!store_loss(worker, partition, from, until, reason))
	{
		partition->suspect = partition->check == CHECK_FAILED ?
			SUSPECT_CONTENT : SUSPECT_OFFSET;
		worker->suspects = true;
		worker->losses_at = TimestampTzPlusMilliseconds(monotonic_now(), AGAIN_MS);
		return;
	}
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
							  Max(read_at(worker, partition) - CLOCK_DIFFERENCE_MS, 0),
							  &younger, question_ms(worker)))
		return false;
	if (partition->other_cluster || younger <= low || younger > until)
	{
		report(worker, partition, low, position, "replaced",
			   partition->other_cluster ? "is that of another cluster, not the one that was read" :
			   "is not the one that was read: the topic was made anew, or is that of another cluster");
		health_doubt_topic(worker, partition->at.topic);
	}
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
						 question_ms(worker)))
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

/*
 * What was seen of it may not have been all: it is to be looked at again.  If it was
 * compared with what it was when it was last verified, it is so again: its last marks
 * may be those of another one.
 */
static void
begin_again(InboxWorker *worker, Partition *partition)
{
	if (partition->check == CHECK_FAILED)
		marks_begin_again(worker, partition);
}

/*
 * When partitions are to be looked at that could not be stored, by monotonic_now().
 */
TimestampTz
lost_messages_due(const InboxWorker *worker)
{
	return worker->suspects && worker->losses_at > monotonic_now() ?
		worker->losses_at : DT_NOEND;
}

/*
 * Looks at the partitions of which that was said.  May end the process.
 */
void
lost_messages_take(InboxWorker *worker)
{
	MemoryContext context = NULL;
	MemoryContext old = CurrentMemoryContext;

	TimestampTz began = monotonic_now();

	if (!worker->suspects || worker->losses_at > began)
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

		/* Kafka may take a second for each, and somebody want us to end. */
		worker_check(worker);
		if (TimestampDifferenceExceeds(began, monotonic_now(), LONGEST_MS))
			partition->suspect = SUSPECT_NOTHING;
		else if (look(worker, partition))
			continue;
		begin_again(worker, partition);
	}
	if (context == NULL)
		return;
	partitions_assign(worker);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
