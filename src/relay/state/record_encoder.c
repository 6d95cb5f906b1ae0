/*-------------------------------------------------------------------------
 *
 * record_encoder.c
 *	  From an event to a Kafka record: key, value and headers.
 *
 * By default the record is what consumers of an outbox know: the key is the
 * aggregate's id, the value the payload byte for byte, header "id" the
 * event's id as text, "type" its type, "aggregate_type" its aggregate's type,
 * and "replay", with the value "true", marks an event that is sent again.
 * Further headers follow.  Text goes out as UTF-8.
 *
 * Pure: no I/O, no globals.  What is allocated lives in the current memory
 * context, and for the usual event there is nothing to allocate.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/state/record_encoder.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "core/slice.h"
#include "event/event.h"
#include "kafka/producer/producer.h"

#define ENCODER_INITIAL_SIZE 16

/*
 * Makes an encoder whose memory is in the given context.
 */
void
record_encoder_init(Encoder *encoder, MemoryContext context)
{
	encoder->context = context;
	encoder->size = ENCODER_INITIAL_SIZE;
	encoder->headers = MemoryContextAlloc(context, encoder->size *
										  sizeof(MessageHeader));
}

/* Text of the database as UTF-8; usually it is already. */
static Slice
to_utf8(Slice text)
{
	Slice		result = text;

	if (text.data == NULL || GetDatabaseEncoding() == PG_UTF8)
		return text;

	result.data = pg_server_to_any(text.data, text.len, PG_UTF8);
	if (result.data != text.data)
		result.len = strlen(result.data);
	return result;
}

/* A scalar header value as text; SLICE_NULL for a JSON null. */
static Slice
header_value(const JsonbValue *value)
{
	Slice		slice = SLICE_NULL;

	switch (value->type)
	{
		case jbvString:
			slice.data = value->val.string.val;
			slice.len = value->val.string.len;
			return to_utf8(slice);
		case jbvNumeric:
			slice.data = DatumGetCString(DirectFunctionCall1(numeric_out,
															 NumericGetDatum(value->val.numeric)));
			break;
		case jbvBool:
			slice.data = value->val.boolean ? "true" : "false";
			break;
		default:
			return slice;
	}
	slice.len = strlen(slice.data);
	return slice;
}

static void
add_header(Encoder *encoder, Message *message, const char *name, int name_len,
		   Slice value)
{
	MessageHeader *header;

	if (message->nheaders == encoder->size)
	{
		encoder->size *= 2;
		encoder->headers = repalloc(encoder->headers, encoder->size *
									sizeof(MessageHeader));
	}
	header = &encoder->headers[message->nheaders++];
	header->name = name;
	header->name_len = name_len;
	header->value = value;
}

/* Adds the members of a flat JSON object. */
static void
add_json_headers(Encoder *encoder, Message *message, Jsonb *headers)
{
	JsonbIterator *it = JsonbIteratorInit(&headers->root);
	JsonbValue	key;
	JsonbValue	value;
	JsonbIteratorToken token;
	Slice		name;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		name.data = key.val.string.val;
		name.len = key.val.string.len;
		name = to_utf8(name);
		add_header(encoder, message, name.data, name.len, header_value(&value));
	}
}

/*
 * Fills in all of message but its topic and opaque.  It points into the event
 * and the encoder.
 */
void
record_encoder_message(Encoder *encoder, const Event *event, int64 timestamp_ms,
					   Message *message)
{
	static const Slice yes = {"true", 4};
	Slice		id;

	uuid_to_text(&event->event_id, encoder->id);
	id.data = encoder->id;
	id.len = UUID_TEXT_LEN;

	message->key = to_utf8(event_key(event));
	message->value = event->payload;
	message->timestamp_ms = timestamp_ms;
	message->nheaders = 0;
	add_header(encoder, message, "id", 2, id);
	add_header(encoder, message, "type", 4, to_utf8(event->event_type));
	add_header(encoder, message, "aggregate_type", 14,
			   to_utf8(event->aggregate_type));
	if (event->replay)
		add_header(encoder, message, "replay", 6, yes);
	if (event->headers)
		add_json_headers(encoder, message, event->headers);
	message->headers = encoder->headers;
}
