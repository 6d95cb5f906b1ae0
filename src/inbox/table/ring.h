/*-------------------------------------------------------------------------
 *
 * ring.h
 *	  The chunks of inbox.message and inbox.received.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RING_H
#define OUTBOX_RING_H

#include "postgres.h"

#include "storage/lockdefs.h"
#include "utils/relcache.h"

#define INBOX_SCHEMA "inbox"

/* Chunks of a ring. */
#define RING_SIZE 4

typedef enum Ring
{
	RING_MESSAGE,
	RING_RECEIVED
} Ring;

extern int64 ring_position(Ring ring);
extern int16 ring_chunk_at(int64 position);
extern int16 ring_current_chunk(Ring ring);
extern long ring_expire_interval(long longest);
extern Relation ring_open_chunk(Ring ring, int16 chunk, LOCKMODE lockmode);

#endif							/* OUTBOX_RING_H */
