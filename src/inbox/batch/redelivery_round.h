/*-------------------------------------------------------------------------
 *
 * redelivery_round.h
 *	  A round of messages that are tried again, as its files share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REDELIVERY_ROUND_H
#define OUTBOX_REDELIVERY_ROUND_H

#include "postgres.h"

#include "inbox/batch/handler_call.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/position_move.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

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

/* Offset of a message. */
static inline int64
retry_offset(const InboxMessage *message)
{
	return DatumGetInt64(message->values[MESSAGE_OFFSET]);
}

#endif							/* OUTBOX_REDELIVERY_ROUND_H */
