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
 * What tells a message from others is its header "id", the last one when it
 * is repeated.  Our relay writes it, and so does Debezium, which may put it
 * into quotes.  A message without one is told by topic, partition and offset.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/message.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/base64.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "base/utf8.h"
#include "inbox/received.h"
#include "inbox/ring.h"

#define MAX_HEADERS 1000		/* more of one message are left out */
#define BASE64_MEMBER "base64"

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

/* Bytes as text of the database; NULL when they are none. */
static char *
to_text(Slice bytes)
{
	return bytes.data ? utf8_to_database(bytes.data, bytes.len) : NULL;
}

static Datum
to_bytea(Slice bytes)
{
	bytea	   *value = palloc(bytes.len + VARHDRSZ);

	SET_VARSIZE(value, bytes.len + VARHDRSZ);
	memcpy(VARDATA(value), bytes.data, bytes.len);
	return PointerGetDatum(value);
}

/* Sets a column of type bytea; NULL bytes stay NULL. */
static void
set_bytea(InboxMessage *message, MessageColumn column, Slice bytes)
{
	if (bytes.data != NULL)
		message_set(message, column, to_bytea(bytes));
}

static char *
to_base64(Slice bytes)
{
	int			size = pg_b64_enc_len(bytes.len) + 1;
	char	   *encoded = palloc(size);
	int			len = compat_b64_encode(bytes.data, bytes.len, encoded,
										size - 1);

	encoded[Max(len, 0)] = '\0';
	return encoded;
}

/* The last header of a name, or NULL. */
static const ConsumerHeader *
find_header(const ConsumerHeader *headers, int n, const char *name)
{
	for (int i = n - 1; i >= 0; i--)
		if (strcmp(headers[i].name, name) == 0)
			return &headers[i];
	return NULL;
}

static char *
header_text(const ConsumerHeader *headers, int n, const char *name)
{
	const ConsumerHeader *header = find_header(headers, n, name);

	return header ? to_text(header->value) : NULL;
}

/* A stand-in for an id that is too long for an index, or no text. */
static char *
hash_id(Slice id)
{
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char	   *result = palloc(sizeof("sha256:") + 2 * sizeof(digest));
	char	   *end = result + sprintf(result, "sha256:");

	if (context == NULL || pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) id.data, id.len) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not hash the id of a message");
	pg_cryptohash_free(context);
	for (int i = 0; i < sizeof(digest); i++)
		end += sprintf(end, "%02x", digest[i]);
	return result;
}

/* The identity of a record. */
static char *
identify(const ConsumerRecord *record, const ConsumerHeader *headers, int n)
{
	const ConsumerHeader *header = find_header(headers, n, "id");
	char	   *id;

	if (header != NULL && header->value.data != NULL)
	{
		Slice		value = header->value;

		if (value.len >= 2 && value.data[0] == '"' &&
			value.data[value.len - 1] == '"')
		{
			value.data++;
			value.len -= 2;
		}
		id = to_text(value);
		if (id == NULL || strlen(id) > RECEIVED_MAX_EVENT_ID)
			return hash_id(value);
		if (id[0] != '\0')
			return id;
	}
	return psprintf("%s/%d/" INT64_FORMAT, record->topic, record->partition,
					record->offset);
}

/* Adds a string that lives as long as the current context. */
static void
push_string(JsonbParseState **state, JsonbIteratorToken token, char *string)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = string;
	value.val.string.len = strlen(string);
	(void) pushJsonbValue(state, token, &value);
}

/* Adds the value of a header; token is WJB_VALUE or WJB_ELEM. */
static void
push_header(JsonbParseState **state, JsonbIteratorToken token, Slice bytes)
{
	char	   *string = to_text(bytes);
	JsonbValue	null = {.type = jbvNull};

	if (string != NULL)
		push_string(state, token, string);
	else if (bytes.data == NULL)
		(void) pushJsonbValue(state, token, &null);
	else
	{
		(void) pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
		push_string(state, WJB_KEY, BASE64_MEMBER);
		push_string(state, WJB_VALUE, to_base64(bytes));
		(void) pushJsonbValue(state, WJB_END_OBJECT, NULL);
	}
}

static int
count_header(const ConsumerHeader *headers, int n, const char *name)
{
	int			count = 0;

	for (int i = 0; i < n; i++)
		count += strcmp(headers[i].name, name) == 0;
	return count;
}

/* Adds all headers of a name. */
static void
push_headers(JsonbParseState **state, const ConsumerHeader *headers, int n,
			 const char *name)
{
	Slice		bytes = {name, strlen(name)};
	char	   *key = to_text(bytes);
	int			count = count_header(headers, n, name);

	push_string(state, WJB_KEY, key ? key : to_base64(bytes));
	if (count > 1)
		(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
		if (strcmp(headers[i].name, name) == 0)
			push_header(state, count > 1 ? WJB_ELEM : WJB_VALUE, headers[i].value);
	if (count > 1)
		(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static Datum
headers_to_jsonb(const ConsumerHeader *headers, int n)
{
	JsonbParseState *state = NULL;
	JsonbValue *object;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
		if (count_header(headers, i, headers[i].name) == 0)
			push_headers(&state, headers, n, headers[i].name);
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}

/* A Unix time in ms as a timestamp. */
static TimestampTz
unix_ms_to_timestamp(int64 ms)
{
	return (ms - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * INT64CONST(1000)) *
		INT64CONST(1000);
}

/*
 * Makes a row of a record, in the current memory context: pending and without
 * an attempt so far.  The chunk is not set.
 */
void
message_decode(InboxMessage *message, const char *subscription,
			   const ConsumerRecord *record)
{
	ConsumerHeader headers[MAX_HEADERS];
	int			n = Min(consumer_headers(record, headers, MAX_HEADERS),
						MAX_HEADERS);

	memset(message->nulls, true, sizeof(message->nulls));
	message_set_text(message, MESSAGE_SUBSCRIPTION, subscription);
	message_set_text(message, MESSAGE_EVENT_ID, identify(record, headers, n));
	message_set_text(message, MESSAGE_TOPIC, record->topic);
	message_set(message, MESSAGE_PARTITION, Int32GetDatum(record->partition));
	message_set(message, MESSAGE_OFFSET, Int64GetDatum(record->offset));
	set_bytea(message, MESSAGE_KEY, record->key);
	message_set_text(message, MESSAGE_EVENT_TYPE, header_text(headers, n, "type"));
	message_set_text(message, MESSAGE_AGGREGATE_TYPE,
					 header_text(headers, n, "aggregate_type"));
	message_set_text(message, MESSAGE_AGGREGATE_ID, to_text(record->key));
	set_bytea(message, MESSAGE_PAYLOAD, record->value);
	if (n > 0)
		message_set(message, MESSAGE_HEADERS, headers_to_jsonb(headers, n));
	message_set_text(message, MESSAGE_STATUS, "pending");
	message_set(message, MESSAGE_ATTEMPTS, Int32GetDatum(0));
	message_set(message, MESSAGE_RECEIVED_AT,
				TimestampTzGetDatum(GetCurrentTimestamp()));
	if (record->timestamp_ms >= 0)
		message_set(message, MESSAGE_CREATED_AT,
					TimestampTzGetDatum(unix_ms_to_timestamp(record->timestamp_ms)));
}

/*
 * Reads a row of inbox.message; the parts stay the tuple's.
 */
void
message_from_tuple(InboxMessage *message, HeapTuple tuple, TupleDesc desc)
{
	heap_deform_tuple(tuple, desc, message->values, message->nulls);
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
