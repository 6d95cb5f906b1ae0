/*-------------------------------------------------------------------------
 *
 * message_headers.h
 *	  The headers of a Kafka record, for a row of inbox.message.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MESSAGE_HEADERS_H
#define OUTBOX_MESSAGE_HEADERS_H

#include "postgres.h"

#include "core/slice.h"
#include "kafka/consumer/consumer.h"

/* Few enough for a record to be looked at without memory of its own. */
#define MESSAGE_FEW_HEADERS 64

typedef struct MessageHeaders
{
	ConsumerHeader *all;
	int			n;
	ConsumerHeader few[MESSAGE_FEW_HEADERS];
} MessageHeaders;

extern void message_headers_read(MessageHeaders *headers,
								 const ConsumerRecord *record);
extern void message_headers_free(MessageHeaders *headers);
extern const Slice *message_headers_find(const MessageHeaders *headers,
										 const char *name);
extern char *message_headers_text(const MessageHeaders *headers,
								  const char *name);
extern bool message_headers_fit(const MessageHeaders *headers);
extern Datum message_headers_to_jsonb(const MessageHeaders *headers);

#endif							/* OUTBOX_MESSAGE_HEADERS_H */
