/*-------------------------------------------------------------------------
 *
 * record_encoder.h
 *	  From an event to a Kafka record: key, value and headers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RECORD_ENCODER_H
#define OUTBOX_RECORD_ENCODER_H

#include "postgres.h"

#include "event/event.h"
#include "kafka/producer/producer.h"

/* Reused for every event, so that the hot path allocates nothing. */
typedef struct Encoder
{
	char		id[UUID_TEXT_LEN + 1];
	MessageHeader *headers;
	int			size;			/* of headers */
	MemoryContext context;		/* of headers */
} Encoder;

extern void record_encoder_init(Encoder *encoder, MemoryContext context);
extern void record_encoder_message(Encoder *encoder, const Event *event,
								   int64 timestamp_ms, Message *message);

#endif							/* OUTBOX_RECORD_ENCODER_H */
