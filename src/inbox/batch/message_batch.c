/*-------------------------------------------------------------------------
 *
 * message_batch.c
 *	  Makes a batch of messages of the records that were fetched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/message_batch.h"

#include "inbox/batch/position_move.h"
#include "inbox/batch/record_decoder.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_list.h"
#include "inbox/process/worker_report.h"
#include "inbox/table/dedup.h"
#include "kafka/consumer/consumer.h"

/*
 * Makes messages of the records that are new to us, in the current memory
 * context.
 */
Batch *
batch_create(InboxWorker *worker, ConsumerRecord *records, int n)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	batch->worker = worker;
	batch->messages = palloc(sizeof(InboxMessage) * n);
	batch->partitions = palloc(sizeof(Partition *) * n);
	batch->records = palloc(sizeof(ConsumerRecord *) * n);
	batch->fates = palloc(sizeof(Fate) * n);
	batch->items = palloc(sizeof(ReceivedItem) * n);
	batch->received = palloc(sizeof(Received) * n);
	batch->conflicts = palloc(sizeof(bool) * n);
	batch->replaces = palloc(sizeof(bool) * n);
	batch->done = palloc(sizeof(bool) * n);
	batch->moves = palloc(sizeof(Move) * n);
	for (int i = 0; i < n; i++)
	{
		Partition  *partition = partitions_find(worker, records[i].topic,
												records[i].partition);

		/* What was fetched for an earlier assignment may still come. */
		if (partition == NULL || records[i].offset < partition->at.offset)
			continue;
		health_sign(partition);
		partition->at.offset = records[i].offset + 1;
		record_decoder_record(worker->subscription, &batch->messages[batch->n],
							  &records[i]);
		batch->records[batch->n] = &records[i];
		batch->partitions[batch->n++] = partition;
	}
	return batch;
}
