/*-------------------------------------------------------------------------
 *
 * redelivery.h
 *	  Messages of inbox.message that are tried again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REDELIVERY_H
#define OUTBOX_REDELIVERY_H

#include "inbox/batch/batch_table.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/message/message.h"

/* What a round means for a key, once it has committed. */
typedef struct Outcome
{
	WaitingKey	key;
	bool		finished;		/* nothing of it waits any more */
	bool		suspect;		/* the first message is */
	bool		old;			/* it was there before the process began */
	int64		first_offset;
	TimestampTz due;
} Outcome;

typedef struct Round
{
	InboxWorker *worker;
	Handler		handler;
	Waiting   **keys;
	int			nkeys;
	Outcome    *outcomes;
	Move	   *moves;
	int			nmoves;
	int			limit;			/* so many messages it may take */
	int			taken;			/* and has taken so far */
	int			tries;			/* transactions in vain for one message */
	bool		disturbed;		/* somebody else had locked something */
	bool		charged;		/* attempts were counted before */
	bool		stopped;
	bool		outdated;		/* what waits is not what we knew */
	HandlerFailure failure;		/* of the commit */
} Round;

/* What became of a suspect that was to be charged. */
typedef enum Charge
{
	CHARGE_NONE,				/* it is none, or not there any more */
	CHARGE_RUNS,				/* it is charged, and may run */
	CHARGE_FAILED				/* it has no attempts left */
} Charge;

/* redelivery.c */
extern void retry_run(InboxWorker *worker);
extern void retry_run_charged(InboxWorker *worker, InboxMessage *message);
extern bool retry_take_result(Round *round, InboxMessage *message,
							  bool succeeded);
extern void retry_set_next(Round *round, const Waiting *waiting,
						   const InboxMessage *message, Outcome *outcome);
extern void retry_apply(Round *round);

/* Offset of a message. */
static inline int64
retry_offset(const InboxMessage *message)
{
	return DatumGetInt64(message->values[MESSAGE_OFFSET]);
}

/* redelivery_read.c */
extern void retry_load(InboxWorker *worker);
extern InboxMessage *retry_read(Round *round, const Waiting *waiting, int limit,
								int *n);

/* suspect_attempt.c */
extern void charge_count(InboxWorker *worker, InboxMessage *message);
extern bool charge_is_marked(const InboxMessage *message);
extern bool charge_is_due(InboxWorker *worker, const Partition *partition,
						  const InboxMessage *message);
extern void charge_take_back(InboxMessage *message);
extern Charge charge_first(InboxWorker *worker, Waiting *waiting);
extern void charge_make_durable(void);
extern void charge_fail_at_commit(Round *round);
extern void charge_note(InboxWorker *worker, const Waiting *waiting);
extern void charge_end(InboxWorker *worker);

#endif							/* OUTBOX_REDELIVERY_H */
