/*-------------------------------------------------------------------------
 *
 * position_move.h
 *	  How far a transaction moves the position of a partition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_POSITION_MOVE_H
#define OUTBOX_POSITION_MOVE_H

#include "postgres.h"

#include "storage/itemptr.h"

#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"

/* How far a batch moves a partition. */
typedef struct Move
{
	Partition  *partition;
	int64		next_offset;
	const ConsumerRecord *before;	/* the last two messages that were read; */
	const ConsumerRecord *last; /* NULL when there are none */
	Mark		marks[MARKS];	/* theirs, if so */
	ItemPointerData place;		/* of the row that was written; see
								 * position_table.c */
	TimestampTz read_until;
	int			received;
	int			processed;
	int			duplicates;
	int			conflicts;
} Move;

#endif							/* OUTBOX_POSITION_MOVE_H */
