/*-------------------------------------------------------------------------
 *
 * message_of_record.c
 *	  Makes a message of a record of Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/message/message_of_record.h"

#include "common/int.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/slice.h"
#include "inbox/message/identity_rules.h"
#include "inbox/message/message.h"
#include "inbox/message/message_headers.h"
#include "inbox/message/message_identity.h"
#include "inbox/message/message_text.h"
#include "kafka/consumer/consumer.h"

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

/*
 * Sets the time of the message, a Unix time in ms.  Whoever produces messages
 * sets that, to anything: to microseconds by mistake, for example.  It stays
 * NULL when it is none that PostgreSQL has.
 */
static void
set_created_at(InboxMessage *message, int64 unix_ms)
{
	int64		ms = unix_ms - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) *
	SECS_PER_DAY * INT64CONST(1000);
	int64		time;

	if (unix_ms >= 0 && !pg_mul_s64_overflow(ms, 1000, &time) &&
		IS_VALID_TIMESTAMP(time))
		message_set(message, MESSAGE_CREATED_AT, TimestampTzGetDatum(time));
}

/* Sets the headers, or that they are too many. */
static void
set_headers(InboxMessage *message, const MessageHeaders *headers)
{
	if (message_headers_fit(headers))
		message_set(message, MESSAGE_HEADERS, message_headers_to_jsonb(headers));
	else
		message_set_lack(message, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						 psprintf("the %d headers of the message are more than jsonb can hold",
								  headers->n));
}

/*
 * Begins to make a row of a record, in the current memory context: pending and
 * without an attempt so far.  The chunk is not set, and what comes from headers
 * or identifies it is missing: see message_finish().  Needs a transaction.
 */
void
message_begin(InboxMessage *message, const char *subscription,
			  const ConsumerRecord *record)
{
	memset(message->nulls, true, sizeof(message->nulls));
	message->problem = NULL;
	message_set_text(message, MESSAGE_SUBSCRIPTION, subscription);
	message_set_text(message, MESSAGE_TOPIC, record->topic);
	message_set(message, MESSAGE_PARTITION, Int32GetDatum(record->partition));
	message_set(message, MESSAGE_OFFSET, Int64GetDatum(record->offset));
	set_bytea(message, MESSAGE_KEY, record->key);
	message_set_text(message, MESSAGE_AGGREGATE_ID, message_to_text(record->key));
	set_bytea(message, MESSAGE_PAYLOAD, record->value);
	message_set_text(message, MESSAGE_STATUS, "pending");
	message_set(message, MESSAGE_ATTEMPTS, Int32GetDatum(0));
	message_set(message, MESSAGE_RECEIVED_AT,
				TimestampTzGetDatum(GetCurrentTimestamp()));
	set_created_at(message, record->timestamp_ms);
}

/*
 * Completes it.  A message that cannot be made so that a handler can have it has
 * a problem.  Needs a transaction.
 */
void
message_finish(InboxMessage *message, const IdentityRules *rules,
			   const ConsumerRecord *record, const MessageHeaders *headers)
{
	message_set_text(message, MESSAGE_AGGREGATE_TYPE,
					 message_headers_text(headers, "aggregate_type"));
	if (headers->n > 0)
		set_headers(message, headers);
	message_identity_set(message, rules, headers, record->timestamp_ms);
}
