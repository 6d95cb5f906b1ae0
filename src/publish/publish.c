/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  publish() and publish_bytes(): from a function call to a row of
 *	  outbox.event.
 *
 * Nothing here knows of Kafka: an event is a row, and commits or rolls back
 * with everything else in its transaction.  It is stored whether or not a
 * relay runs, a broker answers or anything is configured.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "core/guc.h"
#include "event/event.h"
#include "event/event_check.h"
#include "event/uuid7.h"
#include "publish/event_insert.h"
#include "publish/publisher_session.h"

PG_FUNCTION_INFO_V1(outbox_publish);
PG_FUNCTION_INFO_V1(outbox_publish_bytes);

/* Raises an error where nothing can be written. */
static void
check_writable(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot publish during recovery"),
				 errdetail("This server is a standby, and an event is a row of a table."),
				 errhint("Publish on the primary server.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot publish in a read-only transaction"),
				 errdetail("An event is a row of a table, written by the transaction that publishes it."),
				 errhint("Start the transaction with READ WRITE; see also default_transaction_read_only.")));
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot publish during a parallel operation"),
				 errdetail("A function that publishes was called by a parallel query."),
				 errhint("Declare functions that call publish() PARALLEL UNSAFE.")));
}

/*
 * Raises an error when one of the arguments was given that this release has
 * no use for yet: to ignore it would be worse.
 */
static void
check_not_given(FunctionCallInfo fcinfo, int deliver_at, int idempotency_key)
{
	if (!PG_ARGISNULL(deliver_at))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("deliver_at is not supported yet"),
				 errdetail("This release of outbox sends every event as soon as its transaction has committed."),
				 errhint("Leave deliver_at out, and publish when the event is due.")));
	if (!PG_ARGISNULL(idempotency_key))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("idempotency_key is not supported yet"),
				 errdetail("This release of outbox does not recognize a repeated call by it."),
				 errhint("Leave idempotency_key out; pass event_id for consumers to recognize a repeated event.")));
}

/*
 * JSON as bytes: its text, in UTF-8.
 */
static bytea *
bytes_from_jsonb(Jsonb *json)
{
	StringInfoData text;
	char	   *utf8;
	bytea	   *bytes;

	/* The text is built behind the room for a header, to save a copy. */
	initStringInfo(&text);
	appendStringInfoSpaces(&text, VARHDRSZ);
	(void) JsonbToCString(&text, &json->root, VARSIZE(json));
	utf8 = pg_server_to_any(text.data + VARHDRSZ, text.len - VARHDRSZ, PG_UTF8);
	if (utf8 == text.data + VARHDRSZ)
	{
		SET_VARSIZE(text.data, text.len);
		return (bytea *) text.data;
	}

	bytes = (bytea *) cstring_to_text(utf8);
	pfree(text.data);
	pfree(utf8);
	return bytes;
}

/* Sets a column to a variable-length argument, unpacked, or to NULL. */
static void
take_argument(FunctionCallInfo fcinfo, int argument, EventColumn column,
			  Datum *values, bool *nulls)
{
	nulls[column] = PG_ARGISNULL(argument);
	if (!nulls[column])
		values[column] = PointerGetDatum(PG_GETARG_VARLENA_PP(argument));
}

/*
 * Publishes: the columns payload and content_type are set, of the arguments
 * those before payload (0 to 2) and from "headers" (whose number is given) on
 * are still to be taken.  Returns the event's id.
 */
static pg_uuid_t *
publish(FunctionCallInfo fcinfo, int headers, Datum *values, bool *nulls)
{
	const int	event_id = headers + 1;
	const int	topic = headers + 2;
	const int	partition_key = headers + 3;
	const int	deliver_at = headers + 4;
	const int	idempotency_key = headers + 5;
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	Event		event;

	check_not_given(fcinfo, deliver_at, idempotency_key);
	take_argument(fcinfo, 0, EVENT_AGGREGATE_TYPE, values, nulls);
	take_argument(fcinfo, 1, EVENT_AGGREGATE_ID, values, nulls);
	take_argument(fcinfo, 2, EVENT_EVENT_TYPE, values, nulls);
	take_argument(fcinfo, headers, EVENT_HEADERS, values, nulls);
	take_argument(fcinfo, topic, EVENT_TOPIC, values, nulls);
	take_argument(fcinfo, partition_key, EVENT_PARTITION_KEY, values, nulls);
	event_from_values(&event, values, nulls);
	check_event(&event);
	check_event_size(&event, outbox_max_event_size);

	if (PG_ARGISNULL(event_id))
		uuid7_generate(id);
	else
		*id = *PG_GETARG_UUID_P(event_id);
	values[EVENT_EVENT_ID] = UUIDPGetDatum(id);
	values[EVENT_CREATED_AT] =
		TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[EVENT_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	nulls[EVENT_EVENT_ID] = nulls[EVENT_CREATED_AT] = nulls[EVENT_XID] = false;

	store_insert(values, nulls, !PG_ARGISNULL(event_id));
	session_publishes();
	return id;
}

/*
 * publish(aggregate_type text, aggregate_id text, event_type text,
 *		   payload jsonb, headers jsonb, event_id uuid, topic text,
 *		   partition_key text, deliver_at timestamptz, idempotency_key text)
 *		RETURNS uuid
 *
 * Publishes an event whose payload is JSON, or a tombstone when it is NULL.
 */
Datum
outbox_publish(PG_FUNCTION_ARGS)
{
	Datum		values[EVENT_NCOLUMNS] = {0};
	bool		nulls[EVENT_NCOLUMNS];

	check_writable();
	memset(nulls, true, sizeof(nulls));
	if (!PG_ARGISNULL(3))
	{
		values[EVENT_PAYLOAD] =
			PointerGetDatum(bytes_from_jsonb(PG_GETARG_JSONB_P(3)));
		nulls[EVENT_PAYLOAD] = false;
	}
	values[EVENT_CONTENT_TYPE] = CStringGetTextDatum(JSON_TYPE);
	nulls[EVENT_CONTENT_TYPE] = false;
	PG_RETURN_UUID_P(publish(fcinfo, 4, values, nulls));
}

/*
 * publish_bytes(aggregate_type text, aggregate_id text, event_type text,
 *				 payload bytea, content_type text, headers jsonb,
 *				 event_id uuid, topic text, partition_key text,
 *				 deliver_at timestamptz, idempotency_key text) RETURNS uuid
 *
 * Publishes an event whose payload is any bytes, or a tombstone when it is
 * NULL.
 */
Datum
outbox_publish_bytes(PG_FUNCTION_ARGS)
{
	Datum		values[EVENT_NCOLUMNS] = {0};
	bool		nulls[EVENT_NCOLUMNS];

	check_writable();
	memset(nulls, true, sizeof(nulls));
	take_argument(fcinfo, 3, EVENT_PAYLOAD, values, nulls);
	take_argument(fcinfo, 4, EVENT_CONTENT_TYPE, values, nulls);
	PG_RETURN_UUID_P(publish(fcinfo, 5, values, nulls));
}
