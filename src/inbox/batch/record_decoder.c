/*-------------------------------------------------------------------------
 *
 * record_decoder.c
 *	  Makes a message of any record.
 *
 * A record may be larger than what a row can hold: a batch that is compressed
 * can be small for a broker.  Or it is so large, or of such a kind, that it
 * raises an error on its way to be a message.  It must not stop what comes after
 * it.  So its message is made without what cannot be held, and has a problem.
 *
 * PostgreSQL has no values of a GB, and in text a byte of type bytea takes two
 * characters.  A row that cannot be read as text would be in the way of pg_dump.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/record_decoder.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "core/background_worker.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/message/message.h"
#include "inbox/message/message_headers.h"
#include "inbox/message/message_of_record.h"
#include "inbox/subscription/subscription.h"
#include "kafka/consumer/consumer.h"

/* From so many on a record is large. */
#define LARGE_BYTES (1024 * 1024)

/* What of the other columns may be in a row's text. */
#define OTHER_BYTES (1024 * 1024)

/* The largest key that a message has which is too large itself. */
#define MAX_KEY_BYTES 65536

/* Bytes of the names and values of a record's headers. */
static uint64
headers_size(const MessageHeaders *headers)
{
	uint64		bytes = 0;

	for (int i = 0; i < headers->n; i++)
		bytes += strlen(headers->all[i].name) + headers->all[i].value.len;
	return bytes;
}

/*
 * Bytes of a record's row as COPY writes it.  The key is there as bytea and as
 * text, which COPY may escape; of a header a byte may become the escape \u0001,
 * whose backslash is escaped.
 */
static uint64
text_size(const ConsumerRecord *record, const MessageHeaders *headers)
{
	return 2 * (uint64) record->value.len + 4 * (uint64) record->key.len +
		7 * headers_size(headers) + OTHER_BYTES;
}

/*
 * Makes as much of a message as there is room for in any case, and notes why it
 * is not all.
 */
static void
decode_part(const Subscription *subscription, InboxMessage *message,
			const ConsumerRecord *record, const MessageHeaders *headers,
			int sqlstate, char *reason)
{
	ConsumerRecord part = *record;
	MessageHeaders none = {.n = 0};

	part.value.data = NULL;
	part.value.len = 0;
	if (part.key.len > MAX_KEY_BYTES)
	{
		part.key.data = NULL;
		part.key.len = 0;
	}
	if (headers == NULL || headers_size(headers) > MAX_KEY_BYTES)
	{
		none.all = none.few;
		headers = &none;
	}
	message_begin(message, subscription->name, &part);
	message_set_lack(message, sqlstate, reason);
	message_finish(message, &subscription->identity, &part, headers);
	message->problem->type_unknown |= headers == &none;
}

/* Decodes a record, unless it is too large. */
static void
decode(const Subscription *subscription, InboxMessage *message,
	   const ConsumerRecord *record)
{
	MessageHeaders headers;
	uint64		size;

	message_headers_read(&headers, record);
	size = text_size(record, &headers);
	if (size > MaxAllocSize)
		decode_part(subscription, message, record, &headers,
					ERRCODE_PROGRAM_LIMIT_EXCEEDED,
					psprintf("the message is too large for a row: it has " UINT64_FORMAT " bytes",
							 (uint64) record->key.len + record->value.len +
							 headers_size(&headers)));
	else
	{
		message_begin(message, subscription->name, record);
		message_finish(message, &subscription->identity, record, &headers);
	}
	message_headers_free(&headers);
}

/* Is a record so large that memory may lack for it alone? */
static bool
is_large(const ConsumerRecord *record)
{
	return record->key.len + (int64) record->value.len >= LARGE_BYTES;
}

/* Is it the record's fault that an error was raised? */
static bool
is_to_blame(const ConsumerRecord *record, int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_OPERATOR_INTERVENTION:
			return false;
		case ERRCODE_INSUFFICIENT_RESOURCES:
			return is_large(record);
		default:
			return true;
	}
}

/*
 * Makes a message of a record, in the current memory context: see
 * message_begin().  One that cannot be made of all that is in the record has a
 * problem, which is that it lacks something.  Needs a transaction, outside of any
 * subtransaction and without anything in it, in whose place it may begin another
 * one.
 */
void
record_decoder_record(const Subscription *subscription, InboxMessage *message,
					  const ConsumerRecord *record)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext own = context;

	/* What there is of a large one does not stay when it comes to nothing. */
	if (is_large(record))
		own = AllocSetContextCreate(context, "outbox message",
									ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		MemoryContextSwitchTo(own);
		decode(subscription, message, record);
		MemoryContextSwitchTo(context);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		if (!is_to_blame(record, geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		if (own != context)
			MemoryContextDelete(own);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		worker_begin();
		MemoryContextSwitchTo(context);
		decode_part(subscription, message, record, NULL, error->sqlerrcode,
					psprintf("the message cannot be read: %s", error->message));
	}
	PG_END_TRY();
}

/*
 * Messages could not be stored.  Was that since they are too much, for the memory
 * that there is or for what a row may have?  Of a single one that is small, memory
 * lacks whatever it is.  Call it where the error is being handled.
 */
bool
record_decoder_was_too_much(const ConsumerRecord *const *records, int n)
{
	bool		large = n > 1 || is_large(records[0]);
	ErrorData  *error;
	bool		invalid;

	switch (geterrcode())
	{
		case ERRCODE_OUT_OF_MEMORY:
			return large;
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
			return true;
		case ERRCODE_INTERNAL_ERROR:
			break;
		default:
			return false;
	}
	/* There is no value of that size, which has no code of its own. */
	MemoryContextSwitchTo(CurTransactionContext);
	error = CopyErrorData();
	invalid = strstr(error->message, "invalid memory alloc request size") != NULL;
	FreeErrorData(error);
	return invalid && large;
}

/*
 * Makes a message of a record that could not be stored, in the current memory
 * context: as much as there is room for in any case, and the problem that it is not
 * all.  Runs a transaction of its own.
 */
void
record_decoder_without(const Subscription *subscription, InboxMessage *message,
					   const ConsumerRecord *record, const HandlerFailure *failure)
{
	MemoryContext context = CurrentMemoryContext;
	MessageHeaders headers;

	worker_begin();
	MemoryContextSwitchTo(context);
	message_headers_read(&headers, record);
	decode_part(subscription, message, record, &headers, failure->sqlstate,
				psprintf("the message cannot be stored: %s", failure->message));
	message_headers_free(&headers);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}
