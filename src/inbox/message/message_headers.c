/*-------------------------------------------------------------------------
 *
 * message_headers.c
 *	  The headers of a Kafka record, for a row of inbox.message.
 *
 * A record may have any number of headers, also of one name, and all of them
 * get into the row.  They are sorted by name, so that many cost little more
 * than each by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/message/message_headers.h"

#include "common/base64.h"
#include "utils/jsonb.h"

#include "core/compat.h"
#include "core/slice.h"
#include "inbox/message/message_text.h"
#include "kafka/consumer/consumer.h"

#define BASE64_MEMBER "base64"

/*
 * What jsonb holds at most: that many bytes of an object's members, and pairs
 * that fit into memory while it is made.
 */
#define MAX_BYTES 0x0FFFFFFF
#define MAX_HEADERS 4000000

/* A header on its way into an object. */
typedef struct HeaderMember
{
	char	   *key;
	const Slice *value;
	int			number;			/* its place in the record */
} HeaderMember;

/*
 * Reads the headers of a record, which stay as long as that does.  Allocates
 * in the current memory context if there are many.
 */
void
message_headers_read(MessageHeaders *headers, const ConsumerRecord *record)
{
	headers->all = headers->few;
	headers->n = consumer_headers(record, headers->few, MESSAGE_FEW_HEADERS);
	if (headers->n <= MESSAGE_FEW_HEADERS)
		return;
	headers->all = MemoryContextAllocHuge(CurrentMemoryContext,
										  headers->n * sizeof(ConsumerHeader));
	(void) consumer_headers(record, headers->all, headers->n);
}

/*
 * Gives back what that has allocated.
 */
void
message_headers_free(MessageHeaders *headers)
{
	if (headers->all != headers->few)
		pfree(headers->all);
}

/*
 * The value of the last header of a name, which is in UTF-8; NULL when there
 * is none.
 */
const Slice *
message_headers_find(const MessageHeaders *headers, const char *name)
{
	for (int i = headers->n - 1; i >= 0; i--)
		if (strcmp(headers->all[i].name, name) == 0)
			return &headers->all[i].value;
	return NULL;
}

/*
 * The same as text, in the current memory context; NULL also when the value is
 * no text.
 */
char *
message_headers_text(const MessageHeaders *headers, const char *name)
{
	const Slice *value = message_headers_find(headers, name);

	return value ? message_to_text(*value) : NULL;
}

/*
 * Can jsonb hold the headers, also if all of them are bytes that are no text?
 */
bool
message_headers_fit(const MessageHeaders *headers)
{
	uint64		bytes = 0;

	/* An object in the object, whose parts are aligned and have lengths. */
	for (int i = 0; i < headers->n; i++)
		bytes += (strlen(headers->all[i].name) + headers->all[i].value.len) * 4 / 3 + 40;
	return bytes <= MAX_BYTES && headers->n <= MAX_HEADERS;
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
	char	   *string = message_to_text(bytes);
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

/* Adds n headers of one name. */
static void
push_headers(JsonbParseState **state, const HeaderMember *members, int n)
{
	push_string(state, WJB_KEY, members[0].key);
	if (n > 1)
		(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
		push_header(state, n > 1 ? WJB_ELEM : WJB_VALUE, *members[i].value);
	if (n > 1)
		(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static int
compare_members(const void *a, const void *b)
{
	const HeaderMember *x = a;
	const HeaderMember *y = b;
	int			order = strcmp(x->key, y->key);

	return order != 0 ? order : x->number - y->number;
}

/* The headers as members of an object, those of a name together, in order. */
static HeaderMember *
sort_members(const MessageHeaders *headers)
{
	HeaderMember *members = MemoryContextAllocHuge(CurrentMemoryContext,
												   headers->n * sizeof(HeaderMember));

	for (int i = 0; i < headers->n; i++)
	{
		const char *name = headers->all[i].name;
		Slice		bytes = {name, strlen(name)};
		char	   *key = message_to_text(bytes);

		members[i].key = key ? key : to_base64(bytes);
		members[i].value = &headers->all[i].value;
		members[i].number = i;
	}
	qsort(members, headers->n, sizeof(HeaderMember), compare_members);
	return members;
}

/*
 * The headers, which fit, as an object, in the current memory context: text,
 * or an array where a name is repeated, or {"base64": ...} for bytes that are
 * no text; a name that is no text is in base64.  Needs a transaction.
 */
Datum
message_headers_to_jsonb(const MessageHeaders *headers)
{
	HeaderMember *members = sort_members(headers);
	JsonbParseState *state = NULL;
	JsonbValue *object;
	int			end;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < headers->n; i = end)
	{
		for (end = i + 1; end < headers->n; end++)
			if (strcmp(members[i].key, members[end].key) != 0)
				break;
		push_headers(&state, &members[i], end - i);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(object));
}
