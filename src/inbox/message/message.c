/*-------------------------------------------------------------------------
 *
 * message.c
 *	  From a Kafka record to a row of inbox.message.
 *
 * Kafka carries bytes, and a row has texts: what is no text of the database's
 * encoding, or holds a zero byte, must never stop a worker.  Then the column
 * is NULL, and the bytes are still there in key, payload, or as base64 in
 * headers.
 *
 * What tells a message from others is in message_identity.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/message/message.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "inbox/table/ring.h"

static const char *const column_names[MESSAGE_NCOLUMNS] = {
	"subscription", "event_id", "topic", "partition", "offset", "key",
	"event_type", "aggregate_type", "aggregate_id", "payload", "headers",
	"status", "attempts", "error", "received_at", "processed_at",
	"created_at", "error_sqlstate", "error_context", "error_at",
	"next_attempt_at", "chunk"
};

/*
 * Sets a column.
 */
void
message_set(InboxMessage *message, MessageColumn column, Datum value)
{
	message->values[column] = value;
	message->nulls[column] = false;
}

/*
 * Sets a column of type text, to NULL when value is NULL.
 */
void
message_set_text(InboxMessage *message, MessageColumn column, const char *value)
{
	message->nulls[column] = value == NULL;
	message->values[column] = value ? CStringGetTextDatum(value) : (Datum) 0;
}

/*
 * Notes why a message cannot be processed, in the current memory context,
 * unless something is noted already.
 */
void
message_set_problem(InboxMessage *message, int sqlstate, char *text)
{
	if (message->problem != NULL)
		return;
	message->problem = palloc0(sizeof(MessageProblem));
	message->problem->sqlstate = sqlstate;
	message->problem->message = text;
}

/*
 * Notes that a message cannot be processed because its row does not have all of
 * it, and why; as above.
 */
void
message_set_lack(InboxMessage *message, int sqlstate, char *text)
{
	message_set_problem(message, sqlstate, text);
	message->problem->lacks = true;
}

/* The problem of a row that does not have all of a message; NULL if it has. */
static MessageProblem *
stored_lack(const InboxMessage *message)
{
	MessageProblem *problem;
	char	   *state;

	if (message->nulls[MESSAGE_ERROR_CONTEXT] ||
		message->nulls[MESSAGE_ERROR] ||
		message->nulls[MESSAGE_ERROR_SQLSTATE] ||
		strcmp(TextDatumGetCString(message->values[MESSAGE_ERROR_CONTEXT]),
			   MESSAGE_LACK_CONTEXT) != 0)
		return NULL;
	state = TextDatumGetCString(message->values[MESSAGE_ERROR_SQLSTATE]);
	if (strlen(state) != 5)
		return NULL;
	problem = palloc0(sizeof(MessageProblem));
	problem->sqlstate = MAKE_SQLSTATE(state[0], state[1], state[2], state[3],
									  state[4]);
	problem->message = TextDatumGetCString(message->values[MESSAGE_ERROR]);
	problem->lacks = true;
	return problem;
}

/*
 * Reads a row of inbox.message; most parts stay the tuple's.  The message has
 * no problem, whatever it had when it was stored, unless the row does not have
 * all of it.
 */
void
message_from_tuple(InboxMessage *message, HeapTuple tuple, TupleDesc desc)
{
	static const MessageColumn texts[] = {MESSAGE_SUBSCRIPTION, MESSAGE_TOPIC, MESSAGE_EVENT_ID};

	heap_deform_tuple(tuple, desc, message->values, message->nulls);
	/* Others compare them byte for byte. */
	for (int i = 0; i < lengthof(texts); i++)
		if (!message->nulls[texts[i]])
			message->values[texts[i]] =
				PointerGetDatum(PG_DETOAST_DATUM_PACKED(message->values[texts[i]]));
	message->stored_id = message->values[MESSAGE_EVENT_ID];
	message->problem = stored_lack(message);
}

/*
 * Raises an error unless a table has the columns of inbox.message.
 */
void
message_check_columns(TupleDesc desc)
{
	bool		same = desc->natts == MESSAGE_NCOLUMNS;

	for (int i = 0; i < MESSAGE_NCOLUMNS && same; i++)
		same = strcmp(NameStr(TupleDescAttr(desc, i)->attname),
					  column_names[i]) == 0;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table inbox.message is not what extension outbox made"),
				 errdetail("Its columns were changed."),
				 errhint("Undo that, or drop the extension and create it again.")));
}

/*
 * The type of inbox.message's rows.  Needs a transaction.
 */
Oid
message_type(void)
{
	Oid			relation = get_relname_relid("message",
											 get_namespace_oid(INBOX_SCHEMA, false));
	Oid			type = OidIsValid(relation) ? get_rel_type_id(relation) : InvalidOid;

	if (!OidIsValid(type))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table inbox.message does not exist"),
				 errhint("Drop the extension outbox and create it again.")));
	return type;
}

/*
 * The row as a value of its type, in the current memory context.
 */
Datum
message_datum(InboxMessage *message)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(message_type(), -1);
	HeapTuple	tuple;

	tuple = heap_form_tuple(desc, message->values, message->nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}
