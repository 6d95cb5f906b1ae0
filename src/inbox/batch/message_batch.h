/*-------------------------------------------------------------------------
 *
 * message_batch.h
 *	  A batch of messages, as the files that process it share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MESSAGE_BATCH_H
#define OUTBOX_MESSAGE_BATCH_H

#include "postgres.h"

#include "inbox/batch/handler_failure.h"
#include "inbox/batch/position_move.h"
#include "inbox/batch/unprocessed_rows.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/table/dedup.h"
#include "kafka/consumer/consumer.h"

/* What was done about a message's entry of inbox.received. */
typedef enum Received
{
	RECEIVED_BEFORE,			/* nothing */
	RECEIVED_NOW,				/* it was added */
	RECEIVED_AGAIN				/* it was renewed, for a rerun */
} Received;

/* What is to be done with a message. */
typedef enum Fate
{
	FATE_UNWANTED,
	FATE_REPEATED,				/* received before */
	FATE_RUN,
	FATE_REJECT,				/* it has a problem: fails by itself */
	FATE_STORE					/* it waits, or has failed */
} Fate;

typedef struct Batch
{
	InboxWorker *worker;
	int			n;
	InboxMessage *messages;
	Partition **partitions;		/* of each message */
	const ConsumerRecord **records; /* likewise */
	Fate	   *fates;
	ReceivedItem *items;		/* what is remembered of each message */
	Received   *received;
	bool	   *conflicts;		/* it came before with another content */
	bool	   *replaces;		/* a row of inbox.message that has failed */
	bool	   *done;			/* the handler has processed it */
	Move	   *moves;
	int			nmoves;
	int			end;			/* so many of them the transaction takes */
	int			tries;			/* transactions of its own that the first
								 * message has had in vain */
	StoredStatus *stored;		/* what inbox.message had of each before; NULL
								 * for nothing */
	bool		charge;			/* instead of running the handler */
	bool		charged;		/* so that was done */
	bool		stopped;		/* the subscription stops here */
	bool		storing;		/* the messages are being stored */
	bool		unstored;		/* the only one cannot be stored as it is */
	bool		disturbed;		/* somebody has locked something */
	HandlerFailure failure;		/* of the commit */
} Batch;

extern Batch *batch_create(InboxWorker *worker, ConsumerRecord *records, int n);

#endif							/* OUTBOX_MESSAGE_BATCH_H */
