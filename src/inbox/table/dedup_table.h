/*-------------------------------------------------------------------------
 *
 * dedup_table.h
 *	  What those share who add entries to inbox.received: a single one, in
 *	  dedup.c, or those of a batch, in dedup_batch.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEDUP_TABLE_H
#define OUTBOX_DEDUP_TABLE_H

#include "postgres.h"

#include "access/genam.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "inbox/table/ring.h"

/* Columns of inbox.received. */
enum
{
	RECEIVED_AT,
	RECEIVED_CHUNK,
	RECEIVED_CONSUMER,
	RECEIVED_EVENT_ID,
	RECEIVED_PAYLOAD_HASH,
	RECEIVED_NCOLUMNS
};

/* A chunk that is searched. */
typedef struct ReceivedChunk
{
	Relation	heap;			/* NULL when there is nothing to find */
	Relation	index;
	SnapshotData dirty;
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* what was found */
} ReceivedChunk;

/* The table while entries are added. */
typedef struct ReceivedTable
{
	int64		position;		/* of the ring */
	int16		current;
	ReceivedChunk chunks[RING_SIZE];
	EState	   *estate;
	ResultRelInfo *target;		/* the current chunk */
	MemoryContext old_context;
} ReceivedTable;

#endif							/* OUTBOX_DEDUP_TABLE_H */
