/*-------------------------------------------------------------------------
 *
 * event.h
 *	  The event: one row of outbox.event as a plain C value.
 *
 * An Event points into memory that somebody else owns (the decoded tuple, a
 * function's arguments).  It is made by the output plugin from a heap tuple,
 * or by catch-up from a query's result, and read by route and encode.
 *
 * Text is in the database's encoding, the payload is bytes.
 *
 * The frame, the form in which the output plugin hands an event to a client
 * that asked for binary output, is in network byte order and without padding:
 *
 *		byte	version, 1
 *		int64	id
 *		byte[16] event_id
 *		text	aggregate_type
 *		text	aggregate_id
 *		text	event_type
 *		text	payload
 *		text	content_type
 *		text	headers, as JSON
 *		text	topic
 *		text	partition_key
 *		int64	created_at
 *		int64	deliver_at
 *		int64	time of the commit
 *		uint64	xid
 *
 * where "text" is an int32 length, -1 for NULL, and that many bytes.  Times
 * are microseconds since the Unix epoch: the smallest int64 stands for NULL,
 * the largest and the second smallest for infinity and -infinity.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_H
#define OUTBOX_EVENT_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "core/slice.h"

/* Length of a UUID as text, without the terminating zero. */
#define UUID_TEXT_LEN 36

/*
 * Columns of outbox.event, in the order of the table.  The last one came later,
 * so in a table that was made before it may have others in front, or be missing.
 */
typedef enum EventColumn
{
	EVENT_ID = 0,
	EVENT_EVENT_ID,
	EVENT_AGGREGATE_TYPE,
	EVENT_AGGREGATE_ID,
	EVENT_EVENT_TYPE,
	EVENT_PAYLOAD,
	EVENT_CONTENT_TYPE,
	EVENT_HEADERS,
	EVENT_TOPIC,
	EVENT_PARTITION_KEY,
	EVENT_DELIVER_AT,
	EVENT_CREATED_AT,
	EVENT_XID,
	EVENT_CHUNK,
	EVENT_DATABASE_ID,
	EVENT_ID_GIVEN,
	EVENT_NCOLUMNS
} EventColumn;

/* Those that have their place in every table. */
#define EVENT_NFIXED EVENT_ID_GIVEN

/* The media type that publish() leaves out of the rows whose ids it makes. */
#define JSON_TYPE "application/json"
#define JSON_TYPE_LEN (sizeof(JSON_TYPE) - 1)

typedef struct Event
{
	int64		id;
	pg_uuid_t	event_id;
	Slice		aggregate_type;
	Slice		aggregate_id;
	Slice		event_type;
	Slice		payload;
	Slice		content_type;
	Jsonb	   *headers;		/* NULL when there are none */
	Slice		topic;
	Slice		partition_key;
	bool		has_deliver_at;
	TimestampTz deliver_at;
	TimestampTz created_at;
	uint64		xid;
	int16		chunk;			/* of outbox.event */
	int32		database_id;	/* database in which xid means something */
	bool		replay;			/* sent again on request; not a column */
} Event;

/* What decides the partition, as text of the database. */
static inline Slice
event_key(const Event *event)
{
	return event->partition_key.data ? event->partition_key :
		event->aggregate_id;
}

extern bool event_tupdesc_matches(TupleDesc desc);
extern int	event_id_given_column(TupleDesc desc);
extern void event_from_tuple(Event *event, HeapTuple tuple, TupleDesc desc);
extern void event_from_values(Event *event, const Datum *values,
							  const bool *nulls);
extern Event *event_copy(const Event *event, MemoryContext context);
extern void event_to_text(StringInfo out, const Event *event);
extern void event_to_frame(StringInfo out, const Event *event,
						   TimestampTz commit_time);
extern void uuid_to_text(const pg_uuid_t *uuid, char *text);
extern void append_quoted(StringInfo out, Slice text);

#endif							/* OUTBOX_EVENT_H */
