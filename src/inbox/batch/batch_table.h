/*-------------------------------------------------------------------------
 *
 * batch_table.h
 *	  What a batch writes beside the handler's effects.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_TABLE_H
#define OUTBOX_BATCH_TABLE_H

#include "postgres.h"

#include "executor/spi.h"

#include "inbox/batch/handler_call.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/table/dedup.h"

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

/* batch_table.c */
extern void store_execute(SPIPlanPtr *plan, const char *query, int nargs,
						  Oid *types, Datum *args, const char *nulls);
extern void store_messages(InboxMessage **messages, int n);
extern Datum store_text_array(Datum *values, int n);
extern void store_receive_again(const ReceivedItem **items, Datum *times,
								int n, bool *renewed);
extern void store_unreceive(const ReceivedItem **added, int nadded,
							const ReceivedItem **renewed, int nrenewed);
extern void store_stop(InboxWorker *worker, const InboxMessage *message,
					   volatile bool *disturbed);
extern void store_reject(InboxMessage *message);
extern int64 store_pause_ms(const Subscription *subscription, int attempts);
extern void store_fail(InboxWorker *worker, InboxMessage *message,
					   const HandlerFailure *failure);

/* position_table.c */
extern bool position_lock(InboxWorker *worker, const Move *moves, int n);
extern void position_wait(InboxWorker *worker);
extern void position_move(InboxWorker *worker, Move *moves, int n,
						  volatile bool *disturbed);
extern void position_raise_disturbed(void);
extern int	position_begin_short_waits(void);
extern void position_short_wait_failed(volatile bool *disturbed);

#endif							/* OUTBOX_BATCH_TABLE_H */
