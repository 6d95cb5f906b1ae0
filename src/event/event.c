/*-------------------------------------------------------------------------
 *
 * event.c
 *	  The event value: made from a row, shown as a line of text, packed into
 *	  a frame.
 *
 * Every event passes through event_from_tuple() on its way to Kafka, inside a
 * logical decoding callback: no catalog look-ups, no SPI, and no copies but
 * of values that are compressed, stored out of line or not aligned.
 *
 *-------------------------------------------------------------------------
 */
#include "event/event.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "core/slice.h"

#define FRAME_VERSION 1

#define ID_GIVEN_COLUMN "id_given"

/* Microseconds from the Unix epoch to PostgreSQL's. */
#define EPOCH_DISTANCE \
	((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY)

static const char hex_digits[] = "0123456789abcdef";

/* Types of the columns, in the order of EventColumn. */
static const Oid column_types[EVENT_NFIXED] = {
	[EVENT_ID] = INT8OID,
	[EVENT_EVENT_ID] = UUIDOID,
	[EVENT_AGGREGATE_TYPE] = TEXTOID,
	[EVENT_AGGREGATE_ID] = TEXTOID,
	[EVENT_EVENT_TYPE] = TEXTOID,
	[EVENT_PAYLOAD] = BYTEAOID,
	[EVENT_CONTENT_TYPE] = TEXTOID,
	[EVENT_HEADERS] = JSONBOID,
	[EVENT_TOPIC] = TEXTOID,
	[EVENT_PARTITION_KEY] = TEXTOID,
	[EVENT_DELIVER_AT] = TIMESTAMPTZOID,
	[EVENT_CREATED_AT] = TIMESTAMPTZOID,
	[EVENT_XID] = XID8OID,
	[EVENT_CHUNK] = INT2OID,
	[EVENT_DATABASE_ID] = INT4OID
};

/*
 * Do rows of this description hold events?  Columns that somebody added after
 * ours do no harm.
 */
bool
event_tupdesc_matches(TupleDesc desc)
{
	if (desc->natts < EVENT_NFIXED)
		return false;
	for (int i = 0; i < EVENT_NFIXED; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->atttypid != column_types[i])
			return false;
	}
	return true;
}

/*
 * The place of the column id_given in rows of this description, from 0 on; -1
 * when there is none.
 */
int
event_id_given_column(TupleDesc desc)
{
	for (int i = EVENT_ID_GIVEN; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && att->atttypid == BOOLOID &&
			strcmp(NameStr(att->attname), ID_GIVEN_COLUMN) == 0)
			return i;
	}
	return -1;
}

/* The bytes of a text or bytea, where they are if that is possible. */
static inline Slice
slice_from_datum(Datum value, bool isnull)
{
	struct varlena *varlena;

	if (isnull)
		return SLICE_NULL;
	varlena = PG_DETOAST_DATUM_PACKED(value);
	return (Slice)
	{
		VARDATA_ANY(varlena), VARSIZE_ANY_EXHDR(varlena)
	};
}

/* The media type of a row's payload, which publish() may have left out. */
static inline Slice
content_type_from_values(const Datum *values, const bool *nulls)
{
	if (nulls[EVENT_CONTENT_TYPE] &&
		(nulls[EVENT_ID_GIVEN] || !DatumGetBool(values[EVENT_ID_GIVEN])))
		return (Slice)
	{
		JSON_TYPE, JSON_TYPE_LEN
	};
	return slice_from_datum(values[EVENT_CONTENT_TYPE],
							nulls[EVENT_CONTENT_TYPE]);
}

/*
 * Fills in event from a row's columns, in the order of EventColumn.  It points
 * into the values; what has to be unpacked is allocated in the current memory
 * context.
 */
void
event_from_values(Event *event, const Datum *values, const bool *nulls)
{
	event->id = nulls[EVENT_ID] ? 0 : DatumGetInt64(values[EVENT_ID]);
	if (nulls[EVENT_EVENT_ID])
		memset(&event->event_id, 0, sizeof(pg_uuid_t));
	else
		event->event_id = *DatumGetUUIDP(values[EVENT_EVENT_ID]);

#define SLICE(column) slice_from_datum(values[column], nulls[column])
	event->aggregate_type = SLICE(EVENT_AGGREGATE_TYPE);
	event->aggregate_id = SLICE(EVENT_AGGREGATE_ID);
	event->event_type = SLICE(EVENT_EVENT_TYPE);
	event->payload = SLICE(EVENT_PAYLOAD);
	event->content_type = content_type_from_values(values, nulls);
	event->topic = SLICE(EVENT_TOPIC);
	event->partition_key = SLICE(EVENT_PARTITION_KEY);
#undef SLICE

	event->headers = nulls[EVENT_HEADERS] ? NULL :
		DatumGetJsonbP(values[EVENT_HEADERS]);
	event->has_deliver_at = !nulls[EVENT_DELIVER_AT];
	event->deliver_at = nulls[EVENT_DELIVER_AT] ? 0 :
		DatumGetTimestampTz(values[EVENT_DELIVER_AT]);
	event->created_at = nulls[EVENT_CREATED_AT] ? 0 :
		DatumGetTimestampTz(values[EVENT_CREATED_AT]);
	event->replay = false;
	event->chunk = nulls[EVENT_CHUNK] ? 0 :
		DatumGetInt16(values[EVENT_CHUNK]);
	event->database_id = nulls[EVENT_DATABASE_ID] ? 0 :
		DatumGetInt32(values[EVENT_DATABASE_ID]);
	event->xid = nulls[EVENT_XID] ? 0 :
		U64FromFullTransactionId(DatumGetFullTransactionId(values[EVENT_XID]));
}

/*
 * Fills in event from a row, whose description event_tupdesc_matches().  It
 * points into the tuple; what has to be unpacked is allocated in the current
 * memory context.
 */
void
event_from_tuple(Event *event, HeapTuple tuple, TupleDesc desc)
{
	/* Room for columns that somebody added; untouched memory costs nothing. */
	Datum		values[MaxTupleAttributeNumber];
	bool		nulls[MaxTupleAttributeNumber];
	int			id_given = event_id_given_column(desc);

	heap_deform_tuple(tuple, desc, values, nulls);
	values[EVENT_ID_GIVEN] = id_given < 0 ? BoolGetDatum(true) : values[id_given];
	nulls[EVENT_ID_GIVEN] = id_given >= 0 && nulls[id_given];
	event_from_values(event, values, nulls);
}

/*
 * Appends text between double quotes, on one line: backslash, quote and
 * control characters are escaped as in C.  NULL is null, without quotes.
 */
void
append_quoted(StringInfo out, Slice text)
{
	if (text.data == NULL)
	{
		appendStringInfoString(out, "null");
		return;
	}

	appendStringInfoChar(out, '"');
	for (int i = 0; i < text.len; i++)
	{
		unsigned char c = text.data[i];

		if (c == '"' || c == '\\')
			appendStringInfoChar(out, '\\');
		if (c >= ' ' && c != 0x7f)
			appendStringInfoChar(out, c);
		else if (c == '\n')
			appendStringInfoString(out, "\\n");
		else if (c == '\r')
			appendStringInfoString(out, "\\r");
		else if (c == '\t')
			appendStringInfoString(out, "\\t");
		else
			appendStringInfo(out, "\\x%c%c", hex_digits[c >> 4],
							 hex_digits[c & 15]);
	}
	appendStringInfoChar(out, '"');
}

/* Is the media type one of text?  Parameters may follow a semicolon. */
static bool
media_type_is_text(Slice type)
{
	static const char json[] = "application/json";
	static const char suffix[] = "+json";
	const char *semicolon;
	int			len = type.len;

	if (type.data == NULL)
		return false;
	semicolon = memchr(type.data, ';', len);
	if (semicolon)
		len = semicolon - type.data;
	while (len > 0 && type.data[len - 1] == ' ')
		len--;

	if (len >= 5 && pg_strncasecmp(type.data, "text/", 5) == 0)
		return true;
	if (len == strlen(json) && pg_strncasecmp(type.data, json, len) == 0)
		return true;
	return len > strlen(suffix) &&
		pg_strncasecmp(type.data + len - strlen(suffix), suffix,
					   strlen(suffix)) == 0;
}

/*
 * Can bytes be shown as text of the database?  Payloads are UTF-8; in another
 * encoding only the characters that they share are shown.
 */
static bool
bytes_are_text(Slice bytes)
{
	if (GetDatabaseEncoding() == PG_UTF8)
		return pg_verify_mbstr(PG_UTF8, bytes.data, bytes.len, true);
	for (int i = 0; i < bytes.len; i++)
	{
		if (IS_HIGHBIT_SET(bytes.data[i]) || bytes.data[i] == '\0')
			return false;
	}
	return true;
}

/* Appends a payload: quoted when it is text, else in hexadecimal digits. */
static void
append_payload(StringInfo out, Slice payload, Slice content_type)
{
	if (payload.data == NULL ||
		(media_type_is_text(content_type) && bytes_are_text(payload)))
	{
		append_quoted(out, payload);
		return;
	}

	appendStringInfoString(out, "\\x");
	for (int i = 0; i < payload.len; i++)
	{
		unsigned char c = payload.data[i];

		appendStringInfoChar(out, hex_digits[c >> 4]);
		appendStringInfoChar(out, hex_digits[c & 15]);
	}
}

/* Appends a time as ISO 8601 in UTC, whatever the session's settings. */
static void
append_time(StringInfo out, TimestampTz time)
{
	char text[	MAXDATELEN + 1];
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_NOT_FINITE(time))
		EncodeSpecialTimestamp(time, text);
	else if (timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) == 0)
		EncodeDateTime(&tm, fsec, false, 0, NULL, USE_XSD_DATES, text);
	else
		strlcpy(text, "out of range", sizeof(text));
	appendStringInfo(out, "\"%s%s\"", text,
					 TIMESTAMP_NOT_FINITE(time) ? "" : "Z");
}

/* Copies a slice to where there is room. */
static Slice
copy_slice(char **room, Slice slice)
{
	Slice		copy = SLICE_NULL;

	if (slice.data == NULL)
		return copy;
	copy.data = *room;
	copy.len = slice.len;
	memcpy(*room, slice.data, slice.len);
	*room += slice.len;
	return copy;
}

/*
 * Copies an event, with all that it points to, into one piece of memory of that
 * context.
 */
Event *
event_copy(const Event *event, MemoryContext context)
{
	Size		headers_size = event->headers ? VARSIZE(event->headers) : 0;
	Size		size = MAXALIGN(sizeof(Event)) + MAXALIGN(headers_size) +
	event->aggregate_type.len + event->aggregate_id.len +
	event->event_type.len + event->payload.len + event->content_type.len +
	event->topic.len + event->partition_key.len;
	Event	   *copy = MemoryContextAllocHuge(context, size);
	char	   *room = (char *) copy + MAXALIGN(sizeof(Event));

	*copy = *event;
	if (event->headers)
	{
		copy->headers = (Jsonb *) room;
		memcpy(room, event->headers, headers_size);
		room += MAXALIGN(headers_size);
	}
	copy->aggregate_type = copy_slice(&room, event->aggregate_type);
	copy->aggregate_id = copy_slice(&room, event->aggregate_id);
	copy->event_type = copy_slice(&room, event->event_type);
	copy->payload = copy_slice(&room, event->payload);
	copy->content_type = copy_slice(&room, event->content_type);
	copy->topic = copy_slice(&room, event->topic);
	copy->partition_key = copy_slice(&room, event->partition_key);
	return copy;
}

/*
 * Appends the event as one line of text.  When it was published, and by which
 * transaction, is left out, so that the same events give the same text.
 */
void
event_to_text(StringInfo out, const Event *event)
{
	char		id[UUID_TEXT_LEN + 1];

	uuid_to_text(&event->event_id, id);
	appendStringInfo(out, "event id=" INT64_FORMAT " event_id=%s", event->id, id);
	appendStringInfoString(out, " aggregate_type=");
	append_quoted(out, event->aggregate_type);
	appendStringInfoString(out, " aggregate_id=");
	append_quoted(out, event->aggregate_id);
	appendStringInfoString(out, " event_type=");
	append_quoted(out, event->event_type);
	appendStringInfoString(out, " content_type=");
	append_quoted(out, event->content_type);
	appendStringInfoString(out, " topic=");
	append_quoted(out, event->topic);
	appendStringInfoString(out, " partition_key=");
	append_quoted(out, event->partition_key);
	if (event->has_deliver_at)
	{
		appendStringInfoString(out, " deliver_at=");
		append_time(out, event->deliver_at);
	}
	appendStringInfoString(out, " headers=");
	/* JSON escapes line ends in strings and has none elsewhere. */
	if (event->headers)
		(void) JsonbToCString(out, &event->headers->root, VARSIZE(event->headers));
	else
		appendStringInfoString(out, "null");
	appendStringInfoString(out, " payload=");
	append_payload(out, event->payload, event->content_type);
}

/* Appends length and bytes. */
static void
send_slice(StringInfo out, Slice slice)
{
	if (slice.data == NULL)
	{
		pq_sendint32(out, -1);
		return;
	}
	pq_sendint32(out, slice.len);
	appendBinaryStringInfo(out, slice.data, slice.len);
}

/* Appends a time as microseconds since the Unix epoch. */
static void
send_time(StringInfo out, bool isnull, TimestampTz time)
{
	if (isnull)
		pq_sendint64(out, PG_INT64_MIN);
	else if (TIMESTAMP_IS_NOBEGIN(time))
		pq_sendint64(out, PG_INT64_MIN + 1);
	else if (TIMESTAMP_IS_NOEND(time))
		pq_sendint64(out, PG_INT64_MAX);
	else
		pq_sendint64(out, time + EPOCH_DISTANCE);
}

/*
 * Appends the event as a frame; event.h has its layout.
 */
void
event_to_frame(StringInfo out, const Event *event, TimestampTz commit_time)
{
	Slice		headers = SLICE_NULL;

	pq_sendbyte(out, FRAME_VERSION);
	pq_sendint64(out, event->id);
	appendBinaryStringInfo(out, (const char *) event->event_id.data, UUID_LEN);
	send_slice(out, event->aggregate_type);
	send_slice(out, event->aggregate_id);
	send_slice(out, event->event_type);
	send_slice(out, event->payload);
	send_slice(out, event->content_type);
	if (event->headers)
	{
		headers.data = JsonbToCString(NULL, &event->headers->root,
									  VARSIZE(event->headers));
		headers.len = strlen(headers.data);
	}
	send_slice(out, headers);
	send_slice(out, event->topic);
	send_slice(out, event->partition_key);
	send_time(out, false, event->created_at);
	send_time(out, !event->has_deliver_at, event->deliver_at);
	send_time(out, false, commit_time);
	pq_sendint64(out, event->xid);
}

/*
 * Writes the uuid in its usual form, lower case, and a terminating zero to
 * text, which has room for UUID_TEXT_LEN + 1 bytes.
 */
void
uuid_to_text(const pg_uuid_t *uuid, char *text)
{
	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*text ++= '-';
		*text ++= hex_digits[uuid->data[i] >> 4];
		*text ++= hex_digits[uuid->data[i] & 15];
	}
	*text = '\0';
}
