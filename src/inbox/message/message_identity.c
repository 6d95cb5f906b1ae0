/*-------------------------------------------------------------------------
 *
 * message_identity.c
 *	  What tells a message from others, and what it is about: the choice of
 *	  who subscribes.
 *
 * The identity is a header of the message, the last one when it is repeated,
 * or a field of its payload, or its position in Kafka: topic, partition and
 * offset.  A message without that header is told by its position.  One without
 * the field is not: whoever names a field says that all messages have it, so
 * this one has a problem, which only somebody who looks at it can solve.  The
 * same goes for the fields that event_type and aggregate_id come from.
 *
 * The header is written by our relay, and by Debezium, which may put it into
 * quotes.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/message/message_identity.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/sha2.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/slice.h"
#include "inbox/message/identity_rules.h"
#include "inbox/message/json_payload.h"
#include "inbox/message/message.h"
#include "inbox/message/message_headers.h"
#include "inbox/message/message_text.h"
#include "inbox/table/dedup.h"
#include "inbox/table/dedup_batch.h"

/*
 * Sets the field of a rule from an argument of inbox.subscribe(), which must
 * not go away: its name, in which dots separate the parts, or NULL.
 */
void
message_identity_set_field(FieldRule *rule, const char *argument, const char *name,
						   MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	rule->argument = argument;
	rule->name = name ? pstrdup(name) : NULL;
	rule->path = NULL;
	if (name != NULL)
	{
		Datum	   *parts = palloc(sizeof(Datum) * (strlen(name) + 1));
		int			n = 0;
		const char *part = name;

		for (const char *end; (end = strchr(part, '.')) != NULL; part = end + 1)
			parts[n++] = PointerGetDatum(cstring_to_text_with_len(part, end - part));
		parts[n++] = CStringGetTextDatum(part);
		rule->path = construct_array(parts, n, TEXTOID, -1, false, TYPALIGN_INT);
	}
	MemoryContextSwitchTo(old);
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

/* The id that a header says; NULL when it says none. */
static char *
id_of_header(Slice value)
{
	char	   *id;

	if (value.data == NULL)
		return NULL;
	if (value.len >= 2 && value.data[0] == '"' &&
		value.data[value.len - 1] == '"')
	{
		value.data++;
		value.len -= 2;
	}
	id = message_to_text(value);
	if (id == NULL || strlen(id) > RECEIVED_MAX_EVENT_ID)
		return hash_id(value);
	return id[0] != '\0' ? id : NULL;
}

/* The identity of a message that is known by its position. */
static char *
id_of_position(const InboxMessage *message)
{
	return psprintf("%s/%d/" INT64_FORMAT,
					TextDatumGetCString(message->values[MESSAGE_TOPIC]),
					DatumGetInt32(message->values[MESSAGE_PARTITION]),
					DatumGetInt64(message->values[MESSAGE_OFFSET]));
}

/* The payload as text of the database; NULL, and a problem, when it is none. */
static char *
payload_text(InboxMessage *message, const FieldRule *rule)
{
	bytea	   *payload;
	Slice		bytes;
	char	   *text;

	if (message->nulls[MESSAGE_PAYLOAD])
	{
		message_set_problem(message, ERRCODE_SQL_JSON_MEMBER_NOT_FOUND,
							psprintf("message has no payload, and so no field \"%s\", which %s names",
									 rule->name, rule->argument));
		return NULL;
	}
	payload = DatumGetByteaPP(message->values[MESSAGE_PAYLOAD]);
	bytes.data = VARDATA_ANY(payload);
	bytes.len = VARSIZE_ANY_EXHDR(payload);
	text = message_to_text(bytes);

	if (text == NULL)
		message_set_problem(message, ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
							psprintf("payload of the message is not text in this database, and so has no field \"%s\", which %s names",
									 rule->name, rule->argument));
	return text;
}

/* Notes that a field is not as it should be. */
static void
set_field_problem(InboxMessage *message, const FieldRule *rule,
				  JsonFieldResult result, const char *found, int sqlstate)
{
	bool		is_limit = ERRCODE_TO_CATEGORY(sqlstate) == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
	sqlstate == ERRCODE_INTERNAL_ERROR;

	if (result == JSON_FIELD_NO_JSON)
		message_set_problem(message, sqlstate,
							psprintf("payload of the message %s JSON, and so has no field \"%s\", which %s names (%s)",
									 is_limit ? "cannot be read as" : "is not",
									 rule->name, rule->argument, found));
	else if (result == JSON_FIELD_UNTRANSLATABLE)
		message_set_problem(message, sqlstate,
							psprintf("field \"%s\" of the payload, which %s names, cannot be text (%s)",
									 rule->name, rule->argument, found));
	else if (result == JSON_FIELD_NO_TEXT)
		message_set_problem(message, ERRCODE_SQL_JSON_SCALAR_REQUIRED,
							psprintf("field \"%s\" of the payload, which %s names, is neither a string nor a number",
									 rule->name, rule->argument));
	else
		message_set_problem(message, ERRCODE_SQL_JSON_MEMBER_NOT_FOUND,
							psprintf("payload of the message has no field \"%s\", which %s names",
									 rule->name, rule->argument));
}

/*
 * The value of a field, or NULL, and a problem.  payload is NULL when that is
 * a problem itself.
 */
static char *
field_text(InboxMessage *message, const FieldRule *rule, char *payload)
{
	MemoryContext context;
	MemoryContext old;
	char	   *value = NULL;
	int			sqlstate = 0;
	JsonFieldResult result;

	if (payload == NULL)
		return NULL;
	context = AllocSetContextCreate(CurrentMemoryContext, "outbox field",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	result = json_field(payload, rule->path, &value, &sqlstate);
	MemoryContextSwitchTo(old);
	if (result != JSON_FIELD_TEXT)
		set_field_problem(message, rule, result, value, sqlstate);
	value = result == JSON_FIELD_TEXT ? pstrdup(value) : NULL;
	MemoryContextDelete(context);
	return value;
}

/* Takes the id out of the payload. */
static void
set_id_by_field(InboxMessage *message, const FieldRule *rule, char *payload)
{
	char	   *id = field_text(message, rule, payload);

	if (id == NULL)
		return;
	if (id[0] == '\0')
		message_set_problem(message, ERRCODE_ZERO_LENGTH_CHARACTER_STRING,
							psprintf("field \"%s\" of the payload, which %s names, is empty",
									 rule->name, rule->argument));
	else if (strlen(id) > RECEIVED_MAX_EVENT_ID)
	{
		Slice		bytes = {id, strlen(id)};

		message_set_text(message, MESSAGE_EVENT_ID, hash_id(bytes));
	}
	else
		message_set_text(message, MESSAGE_EVENT_ID, id);
}

/*
 * Sets what comes from fields of the payload; the id only if asked for.  Only
 * here payloads are read as JSON.
 */
static void
set_fields(InboxMessage *message, const IdentityRules *rules, bool with_id)
{
	const FieldRule *id = with_id && rules->id_field.path ? &rules->id_field : NULL;
	const FieldRule *type = rules->type_field.path ? &rules->type_field : NULL;
	const FieldRule *subject = rules->aggregate_id_field.path ?
	&rules->aggregate_id_field : NULL;
	char	   *payload;

	if (id == NULL && type == NULL && subject == NULL)
		return;
	payload = payload_text(message, id ? id : type ? type : subject);
	if (id != NULL)
		set_id_by_field(message, id, payload);
	if (type != NULL)
	{
		char	   *text = field_text(message, type, payload);

		message_set_text(message, MESSAGE_EVENT_TYPE, text);
		if (text == NULL)
			message->problem->type_unknown = true;
	}
	if (subject != NULL)
		message_set_text(message, MESSAGE_AGGREGATE_ID,
						 field_text(message, subject, payload));
	if (payload != NULL)
		pfree(payload);
}

/*
 * Is a message known by its position?  Something may have been added to it, when
 * its topic was made anew.
 */
static bool
has_id_of_position(const InboxMessage *message)
{
	const char *id = TextDatumGetCString(message->values[MESSAGE_EVENT_ID]);
	const char *position = id_of_position(message);
	size_t		len = strlen(position);

	return strncmp(id, position, len) == 0 && (id[len] == '\0' || id[len] == '@');
}

/*
 * Sets event_id, event_type and aggregate_id of a message that has its other
 * parts, or its problem.  One that is known by its position has the timestamp
 * in its receipt, too, a Unix time in ms: the position may have been another
 * message's, before the topic was made anew.  Needs a transaction.
 */
void
message_identity_set(InboxMessage *message, const IdentityRules *rules,
					 const MessageHeaders *headers, int64 unix_ms)
{
	char	   *id = NULL;

	if (!rules->by_position && rules->id_field.path == NULL &&
		rules->id_header != NULL)
	{
		const Slice *value = message_headers_find(headers, rules->id_header);

		id = value ? id_of_header(*value) : NULL;
	}
	message_set_text(message, MESSAGE_EVENT_ID,
					 id ? id : id_of_position(message));

	if (rules->type_header != NULL)
		message_set_text(message, MESSAGE_EVENT_TYPE,
						 message_headers_text(headers, rules->type_header));
	set_fields(message, rules, true);
	message->receipt = message->values[MESSAGE_EVENT_ID];
	if (id == NULL &&
		(rules->id_field.path == NULL || has_id_of_position(message)))
		message->receipt =
			CStringGetTextDatum(psprintf("%s@" INT64_FORMAT,
										 id_of_position(message), unix_ms));
}

/* Mixes a column of type bytea into a hash; NULL is not empty. */
static uint64
mix_column(const InboxMessage *message, MessageColumn column, uint64 hash)
{
	bytea	   *value;

	if (message->nulls[column])
		return hash_bytes_extended((const unsigned char *) "NULL", 4, ~hash);
	value = DatumGetByteaPP(message->values[column]);
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(value),
							   VARSIZE_ANY_EXHDR(value), hash);
}

/* The names in inbox.received for messages of a topic. */
static void
set_topic(IdentityConsumers *consumers, const char *topic)
{
	if (consumers->topic != NULL && strcmp(consumers->topic, topic) == 0)
		return;
	if (consumers->topic == NULL)
		consumers->all_topics =
			CStringGetTextDatum(psprintf("%c%s", RECEIVED_SUBSCRIPTION_PREFIX,
										 consumers->subscription));
	consumers->topic = pstrdup(topic);
	consumers->one_topic =
		CStringGetTextDatum(psprintf("%c%s%c%s", RECEIVED_SUBSCRIPTION_PREFIX,
									 consumers->subscription,
									 RECEIVED_TOPIC_SEPARATOR, topic));
}

/*
 * What is remembered of a message.  consumers, which begins with only the
 * subscription set, is the same for all items of a batch.
 */
void
message_identity_fill_item(ReceivedItem *item, const IdentityRules *rules,
						   IdentityConsumers *consumers, const InboxMessage *message)
{
	set_topic(consumers, TextDatumGetCString(message->values[MESSAGE_TOPIC]));
	item->consumer = rules->per_topic ?
		consumers->one_topic : consumers->all_topics;
	item->former = rules->per_topic ?
		consumers->all_topics : consumers->one_topic;
	item->event_id = message->receipt;
	item->former_id = message->values[MESSAGE_EVENT_ID];
	item->hash = mix_column(message, MESSAGE_KEY, 0);
	item->hash = mix_column(message, MESSAGE_PAYLOAD, item->hash);
	item->since = DT_NOBEGIN;
	item->verdict = RECEIVED_NEW;
}

/* Notes that a message has the id of another one, which has another content. */
static void
set_conflict(InboxMessage *message)
{
	message_set_problem(message, ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION,
						psprintf("message \"%s\" came before, with another key or payload",
								 TextDatumGetCString(message->values[MESSAGE_EVENT_ID])));
}

/*
 * Makes a message fail that has the id of another one, if the rules say so.  It
 * does so once: that it did is remembered under its position and what is in it,
 * and item becomes that.  Returns false if it is not to fail.
 */
bool
message_identity_take_conflict(InboxMessage *message, const IdentityRules *rules,
							   ReceivedItem *item)
{
	ReceivedItem failed = *item;
	ReceivedItem *items = &failed;

	if (!rules->conflicts_fail)
		return false;
	failed.event_id =
		CStringGetTextDatum(psprintf("%s#" UINT64_FORMAT,
									 id_of_position(message), item->hash));
	dedup_add_batch(&items, 1);
	if (failed.verdict != RECEIVED_NEW)
		return false;
	*item = failed;
	set_conflict(message);
	return true;
}

/*
 * Looks at the fields of a stored message again, before it is tried: the rules
 * may be others now, and a message that had no id may have one.  Sets its
 * problem if not.  Returns false when the message repeats another one.  Needs
 * a transaction, and may raise what dedup_add_batch() raises.
 */
bool
message_identity_set_again(InboxMessage *message, const IdentityRules *rules)
{
	bool		lacks_id = rules->id_field.path != NULL &&
	has_id_of_position(message);
	IdentityConsumers consumers = {0};
	ReceivedItem item;
	ReceivedItem *items = &item;

	message->problem = NULL;
	set_fields(message, rules, lacks_id);
	if (message->problem != NULL || !lacks_id || !rules->remembered)
		return true;
	message->receipt = message->values[MESSAGE_EVENT_ID];
	consumers.subscription =
		TextDatumGetCString(message->values[MESSAGE_SUBSCRIPTION]);
	message_identity_fill_item(&item, rules, &consumers, message);
	dedup_add_batch(&items, 1);
	if (item.verdict == RECEIVED_CONFLICTING && rules->conflicts_fail)
	{
		set_conflict(message);
		return true;
	}
	return item.verdict == RECEIVED_NEW;
}
