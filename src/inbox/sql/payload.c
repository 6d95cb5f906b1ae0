/*-------------------------------------------------------------------------
 *
 * payload.c
 *	  inbox.payload_text() and inbox.payload_json(): the payload of a message
 *	  in a form that a handler can use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "core/utf8.h"
#include "inbox/message/json_payload.h"

PG_FUNCTION_INFO_V1(outbox_payload_text);
PG_FUNCTION_INFO_V1(outbox_payload_json);

/* Where a message comes from, as an error message tells it. */
static char *
origin_of(HeapTupleHeader message)
{
	bool		isnull[3];
	Datum		topic = GetAttributeByName(message, "topic", &isnull[0]);
	Datum		partition = GetAttributeByName(message, "partition", &isnull[1]);
	Datum		offset = GetAttributeByName(message, "offset", &isnull[2]);

	if (isnull[0] || isnull[1] || isnull[2])
		return pstrdup("The message has no topic, partition or offset.");
	return psprintf("The message is from topic \"%s\", partition %d, offset " INT64_FORMAT ".",
					TextDatumGetCString(topic), DatumGetInt32(partition),
					DatumGetInt64(offset));
}

/*
 * The payload as text in the database's encoding; NULL for a tombstone.
 * Raises an error when it is not UTF-8, or has characters that the database's
 * encoding does not have.
 */
static char *
payload_as_text(HeapTupleHeader message)
{
	bool		isnull;
	Datum		datum = GetAttributeByName(message, "payload", &isnull);
	bytea	   *payload;
	char	   *converted;
	int			len;
	int			valid;

	if (isnull)
		return NULL;
	payload = DatumGetByteaPP(datum);
	len = VARSIZE_ANY_EXHDR(payload);
	converted = utf8_to_database(VARDATA_ANY(payload), len);
	if (converted != NULL)
		return converted;
	valid = pg_encoding_verifymbstr(PG_UTF8, VARDATA_ANY(payload), len);
	if (valid < len)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("payload of the message is not text"),
				 errdetail("%s Byte %d of %d, 0x%02x, is not valid in UTF-8.",
						   origin_of(message), valid + 1, len,
						   (unsigned char) VARDATA_ANY(payload)[valid]),
				 errhint("Use the payload itself, which is a bytea.")));
	ereport(ERROR,
			(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
			 errmsg("payload of the message is not text in this database"),
			 errdetail("%s It has a character that encoding %s does not have.",
					   origin_of(message), GetDatabaseEncodingName()),
			 errhint("Use the payload itself, which is a bytea.")));
}

/*
 * Raises the error that is being handled, as one about the message: that it is
 * no JSON, or JSON that jsonb cannot hold, such as a string with \u0000.
 */
static void
rethrow_not_jsonb(HeapTupleHeader message, char *payload)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();

	/* "Not supported" are escapes in a database without an encoding. */
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED)
	{
		error->detail = psprintf("%s %c%s.%s%s", origin_of(message),
								 pg_toupper((unsigned char) error->message[0]),
								 error->message + 1,
								 error->detail ? " " : "",
								 error->detail ? error->detail : "");
		error->message = pstrdup(json_is_valid(payload) ?
								 "payload of the message is JSON that jsonb cannot hold" :
								 "payload of the message is not JSON");
		error->hint = pstrdup("Use inbox.payload_text(), or the payload itself, which is a bytea.");
	}
	ReThrowError(error);
}

/*
 * payload_text(message inbox.message) RETURNS text
 */
Datum
outbox_payload_text(PG_FUNCTION_ARGS)
{
	char	   *payload = payload_as_text(PG_GETARG_HEAPTUPLEHEADER(0));

	if (payload == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(payload));
}

/*
 * payload_json(message inbox.message) RETURNS jsonb
 */
Datum
outbox_payload_json(PG_FUNCTION_ARGS)
{
	MemoryContext context = CurrentMemoryContext;
	HeapTupleHeader message = PG_GETARG_HEAPTUPLEHEADER(0);
	char	   *payload = payload_as_text(message);
	volatile Datum json = (Datum) 0;

	if (payload == NULL)
		PG_RETURN_NULL();
	PG_TRY();
	{
		json = DirectFunctionCall1(jsonb_in, CStringGetDatum(payload));
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		rethrow_not_jsonb(message, payload);
	}
	PG_END_TRY();
	return json;
}
