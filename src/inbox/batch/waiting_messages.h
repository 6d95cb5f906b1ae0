/*-------------------------------------------------------------------------
 *
 * waiting_messages.h
 *	  Messages of one key that wait to be tried again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WAITING_MESSAGES_H
#define OUTBOX_WAITING_MESSAGES_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "inbox/process/inbox_worker.h"

/* A hash of what must stay in order. */
typedef struct WaitingKey
{
	uint64		a;
	uint64		b;
} WaitingKey;

/* Messages of one key (or partition), of which the first is tried next. */
typedef struct Waiting
{
	WaitingKey	key;			/* hash key */
	Partition  *partition;
	int64		first_offset;	/* of the first message */
	int64		earlier_offset; /* of one that the transaction that is running
								 * stores before it; PG_INT64_MAX if none */
	TimestampTz due;			/* when it is tried, by monotonic_now() */
	bool		tentative;		/* added by the transaction that is running */
	bool		suspect;		/* the first message is; see crash_suspects.c */
	bool		old;			/* it is; see waiting_is_old() */
} Waiting;

#endif							/* OUTBOX_WAITING_MESSAGES_H */
