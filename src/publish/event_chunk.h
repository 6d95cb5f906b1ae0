/*-------------------------------------------------------------------------
 *
 * event_chunk.h
 *	  The chunks of outbox.event, and the numbers of its rows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_CHUNK_H
#define OUTBOX_EVENT_CHUNK_H

#include "postgres.h"

#include "storage/lockdefs.h"
#include "utils/rel.h"

#define STORE_SCHEMA "outbox"
/* Chunks of outbox.event. */
#define NCHUNKS 8

extern int16 event_chunk_current_chunk(void);
extern Relation event_chunk_open_chunk(int16 chunk, LOCKMODE lockmode);
extern int64 event_chunk_next_id(void);

#endif							/* OUTBOX_EVENT_CHUNK_H */
