/*-------------------------------------------------------------------------
 *
 * partition_end.c
 *	  Passes what lies behind the last message of a partition.
 *
 * Offsets are also used up by what no consumer sees: the record that ends
 * each transaction of a producer, the messages of one that was aborted, and
 * what compaction has removed.  The next message passes them.  As long as
 * there is none, they would show as a lag, and be missed as lost messages once
 * Kafka has removed them.  So when the library says that it has read a
 * partition to its end, the position goes there: at once in memory, and in
 * the table as rarely as offsets are reported to Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/partition_end.h"

#include "utils/memutils.h"

#include "inbox/batch/batch_transaction.h"
#include "inbox/batch/position_move.h"
#include "inbox/batch/position_table.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/process/worker_report.h"

/*
 * Notes that a partition was read to its end, after the messages that were
 * fetched with it.  Called by consumer_fetch(): must not raise an error.
 */
void
partition_end_note(void *arg, const char *topic, int partition, int64 offset)
{
	InboxWorker *worker = arg;
	Partition  *found = partitions_find(worker, topic, partition);

	if (found == NULL)
		return;
	if (!found->end_noted)
	{
		found->next_ended = worker->ended;
		worker->ended = found;
	}
	found->end_noted = true;
	found->end = offset;
	health_sign(found);
}

/*
 * Passes the ends that were noted.  Call when all messages that were fetched
 * are processed.
 */
void
partition_end_pass(InboxWorker *worker)
{
	for (Partition *partition = worker->ended; partition != NULL;
		 partition = partition->next_ended)
	{
		partition->end_noted = false;
		/* Messages before it may have been thrown away. */
		if (partition->check == CHECK_WANTED || partition->check == CHECK_FAILED)
			continue;
		partition->at.offset = Max(partition->at.offset, partition->end);
		worker->offsets_moved = true;
	}
	worker->ended = NULL;
}

/*
 * Runs the transaction once; false when it has to begin anew.  *disturbed says
 * whether somebody has locked a position, before and after.
 */
static bool
try_store(InboxWorker *worker, Move *moves, int n, int *tries,
		  volatile bool *disturbed)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool committed = true;

	if (*disturbed)
		position_wait(worker);
	*disturbed = false;

	PG_TRY();
	{
		inbox_transaction_begin(worker, context);
		position_move(worker, moves, n, disturbed);
		inbox_transaction_commit(worker, 0);
	}
	PG_CATCH();
	{
		(void) inbox_transaction_abort(worker, context, 0, tries, NULL);
		committed = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return committed;
}

/*
 * Stores the positions of partitions whose end was passed.  Runs a transaction
 * of its own when there are any.
 */
void
partition_end_store(InboxWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox ends",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Move	   *moves = palloc0(sizeof(Move) * Max(worker->npartitions, 1));
	int			n = 0;
	int			tries = 0;
	volatile bool disturbed = false;

	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->at.offset == partition->stored && !partition->marked)
			continue;
		moves[n].partition = partition;
		moves[n++].next_offset = partition->at.offset;
	}
	while (n > 0 && !try_store(worker, moves, n, &tries, &disturbed))
		continue;
	for (int i = 0; i < n; i++)
	{
		moves[i].partition->stored = moves[i].next_offset;
		moves[i].partition->place = moves[i].place;
		moves[i].partition->marked = false;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
