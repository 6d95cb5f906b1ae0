/*-------------------------------------------------------------------------
 *
 * event_check.c
 *	  What Kafka, or its consumers, could not take is refused when it is
 *	  published: the rules and their errors.
 *
 * An event that is refused here fails the transaction that publishes it,
 * where somebody can do something about it.  Once it is committed it could
 * only become a dead letter.
 *
 * The same rules are a CHECK constraint of outbox.event, for rows that come
 * by INSERT or COPY.  The limit on the size is not part of it: it is a
 * setting, and a dump must load whatever the settings are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "event/event_check.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "core/slice.h"
#include "event/event.h"
#include "event/topic_name.h"

/* How much of a wrong value an error message shows. */
#define SHOWN_LEN 64

#define CONTENT_TYPE_MAX_LEN 255

#define TOPIC_HINT \
	"The name of a topic has 1 to %d of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\", and is neither \".\" nor \"..\"."

/* Topics that Kafka has for itself. */
static const char *const internal_topics[] = {
	"__consumer_offsets", "__transaction_state", "__share_group_state",
	"__cluster_metadata"
};

/* Headers that the relay sets itself. */
static const char *const reserved_headers[] = {
	"id", "type", "aggregate_type", "replay"
};

PG_FUNCTION_INFO_V1(outbox_check_event);

/* A value as an error message shows it: quoted, and not at full length. */
static char *
shown(Slice text)
{
	StringInfoData buf;
	bool		clipped = text.data != NULL && text.len > SHOWN_LEN;

	if (clipped)
		text.		len = pg_mbcliplen(text.data, text.len, SHOWN_LEN);

	initStringInfo(&buf);
	append_quoted(&buf, text);
	if (clipped)
		appendStringInfoString(&buf, "...");
	return buf.data;
}

/* The character at p, as an error message shows it. */
static char *
shown_character(const char *p, const char *end)
{
	Slice		character = {p, pg_encoding_mblen(GetDatabaseEncoding(), p)};

	character.len = Min(character.len, end - p);
	return shown(character);
}

/*
 * Raises an error when text cannot be converted to UTF-8, in which Kafka gets
 * it.  A database of another encoding can hold such text, and the relay would
 * get stuck on it.
 */
static void
check_encodable(const char *data, int len)
{
	char	   *utf8;

	if (data == NULL || GetDatabaseEncoding() == PG_UTF8)
		return;
	utf8 = pg_server_to_any(data, len, PG_UTF8);
	if (utf8 != data)
		pfree(utf8);
}

/* Raises an error when a required text is NULL or empty. */
static void
check_required(const char *argument, Slice text, const char *meaning)
{
	if (text.data == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of an event must not be null", argument),
				 errdetail("Every event needs one; only aggregate_id and payload may be null."),
				 errhint("Pass %s.", meaning)));
	if (text.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s of an event must not be empty", argument),
				 errdetail("Every event needs one; only aggregate_id and payload may be empty."),
				 errhint("Pass %s.", meaning)));
}

/* The first character that the name of a topic cannot have, or NULL. */
static const char *
find_illegal_character(Slice name)
{
	for (int i = 0; i < name.len; i++)
	{
		char		c = name.data[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
			return name.data + i;
	}
	return NULL;
}

/* Raises an error when aggregate_type does not make the name of a topic. */
static void
check_aggregate_type(Slice type)
{
	const int	prefix = sizeof(TOPIC_PREFIX) - 1;
	const char *illegal;

	check_required("aggregate_type", type,
				   "the kind of thing that the event is about, such as \"Order\"");
	illegal = find_illegal_character(type);
	if (illegal)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("aggregate_type %s does not make the name of a Kafka topic",
						shown(type)),
				 errdetail("The topic is \"" TOPIC_PREFIX "<aggregate_type>\", and no topic has the character %s in its name.",
						   shown_character(illegal, type.data + type.len)),
				 errhint(TOPIC_HINT, TOPIC_MAX_LEN)));
	if (type.len > TOPIC_MAX_LEN - prefix)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("aggregate_type %s does not make the name of a Kafka topic",
						shown(type)),
				 errdetail("The topic is \"" TOPIC_PREFIX "<aggregate_type>\", which leaves %d characters; this has %d.",
						   TOPIC_MAX_LEN - prefix, type.len),
				 errhint(TOPIC_HINT, TOPIC_MAX_LEN)));
}

/* Raises an error when topic, unless it is NULL, is not legal. */
void
check_topic(Slice topic)
{
	const char *illegal;

	if (topic.data == NULL)
		return;
	illegal = find_illegal_character(topic);
	if (illegal)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic %s is not the name of a Kafka topic", shown(topic)),
				 errdetail("No topic has the character %s in its name.",
						   shown_character(illegal, topic.data + topic.len)),
				 errhint(TOPIC_HINT, TOPIC_MAX_LEN)));
	if (topic.len == 0 || topic.len > TOPIC_MAX_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic %s is not the name of a Kafka topic", shown(topic)),
				 errdetail("It has %d characters.", topic.len),
				 errhint(TOPIC_HINT, TOPIC_MAX_LEN)));
	if (strncmp(topic.data, "..", topic.len) == 0 && topic.len <= 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("topic %s is not the name of a Kafka topic", shown(topic)),
				 errdetail("Kafka names directories after topics."),
				 errhint(TOPIC_HINT, TOPIC_MAX_LEN)));
}

/* Raises an error when topic is one of Kafka's own, which takes no events. */
static void
check_topic_is_not_internal(Slice topic)
{
	for (int i = 0; i < lengthof(internal_topics); i++)
		if (topic.len == strlen(internal_topics[i]) &&
			memcmp(topic.data, internal_topics[i], topic.len) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_RESERVED_NAME),
					 errmsg("topic %s is reserved", shown(topic)),
					 errdetail("It is one of those in which Kafka keeps its own records."),
					 errhint("Choose another name.")));
}

/*
 * Raises an error when topic, unless it is NULL, is one of those in which
 * relays keep how far they have come: who wrote there could make them lose
 * their way.  To Kafka "." and "_" are alike, and of two topics that differ in
 * these alone it makes only the first.
 */
static void
check_topic_is_free(Slice topic)
{
	const char *prefix = PROGRESS_TOPIC_PREFIX;
	int			i = 0;

	check_topic_is_not_internal(topic);
	while (i < topic.len && prefix[i] != '\0' &&
		   (topic.data[i] == prefix[i] ||
			(topic.data[i] == '_' && prefix[i] == '.')))
		i++;
	if (prefix[i] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("topic %s is reserved", shown(topic)),
				 errdetail("Topics whose names begin with \"" PROGRESS_TOPIC_PREFIX "\", which to Kafka is the same as \"outbox_progress_\", tell relays what is on Kafka."),
				 errhint("Choose another name.")));
}

/* Raises an error when content_type cannot be the name of a media type. */
static void
check_content_type(Slice type)
{
	if (type.data == NULL)
		return;
	if (type.len == 0 || type.len > CONTENT_TYPE_MAX_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("content_type %s is not a media type", shown(type)),
				 errdetail("It has %d bytes; 1 to %d are allowed.",
						   type.len, CONTENT_TYPE_MAX_LEN),
				 errhint("Pass a media type such as \"application/octet-stream\", or NULL when there is none.")));
	for (int i = 0; i < type.len; i++)
	{
		unsigned char c = type.data[i];

		if (c < ' ' || c == 0x7f)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("content_type %s is not a media type", shown(type)),
					 errdetail("It contains a control character."),
					 errhint("Pass a media type such as \"application/octet-stream\", or NULL when there is none.")));
	}
}

/* What kind of JSON a value is, with its article. */
static const char *
json_kind(enum jbvType type)
{
	switch (type)
	{
		case jbvNull:
			return "a null";
		case jbvString:
			return "a string";
		case jbvNumeric:
			return "a number";
		case jbvBool:
			return "a boolean";
		case jbvArray:
			return "an array";
		default:
			return "an object";
	}
}

/* Raises an error unless headers are a JSON object. */
static void
check_headers_kind(Jsonb *headers)
{
	JsonbValue	scalar;

	if (JB_ROOT_IS_OBJECT(headers))
		return;
	if (!JB_ROOT_IS_SCALAR(headers) ||
		!JsonbExtractScalar(&headers->root, &scalar))
		scalar.type = jbvArray;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("headers of an event must be a JSON object"),
			 errdetail("These are %s.", json_kind(scalar.type)),
			 errhint("Pass an object with a member for each Kafka header, such as {\"tenant\": \"acme\"}, or NULL when there are none.")));
}

/* Raises an error when a header cannot have this name. */
static void
check_header_name(Slice name)
{
	if (name.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of a header must not be empty"),
				 errdetail("The headers have a member whose name is \"\"."),
				 errhint("Give every header a name.")));
	for (int i = 0; i < lengthof(reserved_headers); i++)
	{
		const char *reserved = reserved_headers[i];

		if (name.len == strlen(reserved) &&
			memcmp(name.data, reserved, name.len) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_RESERVED_NAME),
					 errmsg("header name \"%s\" is reserved", reserved),
					 errdetail("Every event has the headers \"id\", \"type\" and \"aggregate_type\", and one that is replayed has \"replay\"."),
					 errhint("Choose another name, such as \"app_%s\".", reserved)));
	}
}

/*
 * Raises an error when a header's value is not a scalar.  Returns its length
 * as text.
 */
static int64
check_header_value(Slice name, const JsonbValue *value)
{
	char	   *text;
	int64		len;

	switch (value->type)
	{
		case jbvNull:
			return 0;
		case jbvString:
			check_encodable(value->val.string.val, value->val.string.len);
			return value->val.string.len;
		case jbvBool:
			return value->val.boolean ? strlen("true") : strlen("false");
		case jbvNumeric:
			text = DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));

			len = strlen(text);
			pfree(text);
			return len;
		default:
			break;
	}

	/* What is nested comes as jbvBinary. */
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("value of header %s must not be nested", shown(name)),
			 errdetail("It is %s; a Kafka header is a string of bytes.",
					   json_kind(JsonContainerIsArray(value->val.binary.data) ?
								 jbvArray : jbvObject)),
			 errhint("Pass a string; for JSON inside a header, pass its text.")));
	return 0;					/* keep compiler quiet */
}

/*
 * Raises an error when headers (NULL when there are none) are not a flat
 * object with usable names.  Returns the bytes of names and values on the
 * wire.
 */
static int64
check_headers(Jsonb *headers)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	member;
	int64		bytes = 0;

	if (headers == NULL)
		return 0;
	check_headers_kind(headers);

	it = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&it, &member, true)) != WJB_DONE)
	{
		Slice		name;

		if (token != WJB_KEY)
			continue;
		name.data = member.val.string.val;
		name.len = member.val.string.len;
		check_header_name(name);
		check_encodable(name.data, name.len);
		(void) JsonbIteratorNext(&it, &member, true);
		bytes += name.len + check_header_value(name, &member);
	}
	return bytes;
}

/*
 * Raises an error that says what is wrong when Kafka could not take the
 * event, whatever its size.
 */
void
check_event(const Event *event)
{
	check_aggregate_type(event->aggregate_type);
	check_required("event_type", event->event_type,
				   "what happened, such as \"OrderCreated\"");
	check_topic(event->topic);
	check_topic_is_free(event->topic);
	check_content_type(event->content_type);
	(void) check_headers(event->headers);
	check_encodable(event->event_type.data, event->event_type.len);
	check_encodable(event->aggregate_id.data, event->aggregate_id.len);
	check_encodable(event->partition_key.data, event->partition_key.len);
}

/*
 * Raises an error when the event's record in Kafka would have more than limit
 * bytes of key, headers and value.
 */
void
check_event_size(const Event *event, int limit)
{
	Slice		key = event->partition_key.data ?
	event->partition_key : event->aggregate_id;
	int64		headers;
	int64		total;

	headers = UUID_TEXT_LEN + event->event_type.len + event->aggregate_type.len;
	for (int i = 0; i < 3; i++)
		headers += strlen(reserved_headers[i]);
	headers += check_headers(event->headers);
	total = key.len + headers + event->payload.len;
	if (total > limit)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event is too large: " INT64_FORMAT " bytes", total),
				 errdetail("Bytes in key, headers and payload: %d, " INT64_FORMAT " and %d; outbox.max_event_size allows %d together.",
						   key.len, headers, event->payload.len, limit),
				 errhint("Store large data elsewhere and publish where it is, or raise outbox.max_event_size and with it \"max.message.bytes\" of the topic and \"message.max.bytes\" of the Kafka server.")));
}

/* An argument of check_event() as a column's value. */
static void
take_argument(FunctionCallInfo fcinfo, int argument, EventColumn column,
			  Datum *values, bool *nulls)
{
	values[column] = PG_GETARG_DATUM(argument);
	nulls[column] = PG_ARGISNULL(argument);
}

/*
 * check_event(aggregate_type text, aggregate_id text, event_type text,
 *			   payload bytea, content_type text, headers jsonb, topic text,
 *			   partition_key text) RETURNS boolean
 *
 * Returns true, or raises an error that says what is wrong with the event.
 * The payload, which may be large, can be any bytes and is not looked at.
 */
Datum
outbox_check_event(PG_FUNCTION_ARGS)
{
	Datum		values[EVENT_NCOLUMNS] = {0};
	bool		nulls[EVENT_NCOLUMNS];
	Event		event;

	memset(nulls, true, sizeof(nulls));
	take_argument(fcinfo, 0, EVENT_AGGREGATE_TYPE, values, nulls);
	take_argument(fcinfo, 1, EVENT_AGGREGATE_ID, values, nulls);
	take_argument(fcinfo, 2, EVENT_EVENT_TYPE, values, nulls);
	take_argument(fcinfo, 4, EVENT_CONTENT_TYPE, values, nulls);
	take_argument(fcinfo, 5, EVENT_HEADERS, values, nulls);
	take_argument(fcinfo, 6, EVENT_TOPIC, values, nulls);
	take_argument(fcinfo, 7, EVENT_PARTITION_KEY, values, nulls);
	event_from_values(&event, values, nulls);
	check_event(&event);
	PG_RETURN_BOOL(true);
}
