/*-------------------------------------------------------------------------
 *
 * retry_batch.h
 *	  A batch of events that were set aside and are sent again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RETRY_BATCH_H
#define OUTBOX_RETRY_BATCH_H

#include "postgres.h"

#include "core/slice.h"
#include "relay/state/relay.h"
#include "relay/state/set_aside.h"

/* The columns are those of EventColumn, in their order.  Two more
 * follow: whether it is a replay, and the position where it was set aside. */
#define EVENT_COLUMNS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.database_id, e.id_given"

#define SAME_EVENT \
	" JOIN outbox.event e ON e.id OPERATOR(pg_catalog.=) d.id" \
	" AND e.chunk OPERATOR(pg_catalog.=) d.chunk" \
	" AND e.database_id OPERATOR(pg_catalog.=) d.database_id"

extern void retry_batch_take_rows(void);
extern int	retry_batch_size(void);
extern uint64 retry_batch_send(Relay *relay, ResendKind kind, const char *topic,
							   Slice key);
extern void retry_batch_prove(const char *forget);
extern void retry_batch_settle(Relay *relay, ResendKind kind, uint64 nrows,
							   const char *forget);

#endif							/* OUTBOX_RETRY_BATCH_H */
