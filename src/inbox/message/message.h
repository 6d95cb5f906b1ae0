/*-------------------------------------------------------------------------
 *
 * message.h
 *	  From a Kafka record to a row of inbox.message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MESSAGE_H
#define OUTBOX_MESSAGE_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"

/* Columns of inbox.message, in order. */
typedef enum MessageColumn
{
	MESSAGE_SUBSCRIPTION,
	MESSAGE_EVENT_ID,
	MESSAGE_TOPIC,
	MESSAGE_PARTITION,
	MESSAGE_OFFSET,
	MESSAGE_KEY,
	MESSAGE_EVENT_TYPE,
	MESSAGE_AGGREGATE_TYPE,
	MESSAGE_AGGREGATE_ID,
	MESSAGE_PAYLOAD,
	MESSAGE_HEADERS,
	MESSAGE_STATUS,
	MESSAGE_ATTEMPTS,
	MESSAGE_ERROR,
	MESSAGE_RECEIVED_AT,
	MESSAGE_PROCESSED_AT,
	MESSAGE_CREATED_AT,
	MESSAGE_ERROR_SQLSTATE,
	MESSAGE_ERROR_CONTEXT,
	MESSAGE_ERROR_AT,
	MESSAGE_NEXT_ATTEMPT_AT,
	MESSAGE_CHUNK,
	MESSAGE_NCOLUMNS
} MessageColumn;

/* Why a message fails though no handler has had it. */
typedef struct MessageProblem
{
	int			sqlstate;
	char	   *message;
	bool		type_unknown;	/* event_type should be there, and is not */
	bool		lacks;			/* the row does not have all of the message */
} MessageProblem;

/* What error_context says of such a row. */
#define MESSAGE_LACK_CONTEXT "The row does not have all of the message, so it is not handled."

typedef struct InboxMessage
{
	Datum		values[MESSAGE_NCOLUMNS];
	bool		nulls[MESSAGE_NCOLUMNS];
	Datum		stored_id;		/* event_id of its row, if it is from one */
	MessageProblem *problem;	/* NULL: none */
	Datum		receipt;		/* the id in inbox.received */
} InboxMessage;

extern void message_set_lack(InboxMessage *message, int sqlstate, char *text);
extern void message_set_problem(InboxMessage *message, int sqlstate,
								char *text);
extern void message_from_tuple(InboxMessage *message, HeapTuple tuple,
							   TupleDesc desc);
extern Oid	message_type(void);
extern Datum message_datum(InboxMessage *message);
extern void message_check_columns(TupleDesc desc);
extern void message_set_text(InboxMessage *message, MessageColumn column,
							 const char *value);
extern void message_set(InboxMessage *message, MessageColumn column, Datum value);

#endif							/* OUTBOX_MESSAGE_H */
