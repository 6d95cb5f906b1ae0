/*-------------------------------------------------------------------------
 *
 * watermark_table.h
 *	  Which transactions' events are on Kafka: one snapshot and its LSN.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WATERMARK_TABLE_H
#define OUTBOX_WATERMARK_TABLE_H

#include "postgres.h"

#include "access/xlogdefs.h"

#include "relay/state/watermark.h"

extern Watermark *watermark_load(MemoryContext context);
extern Watermark *watermark_latest(int32 database_id, MemoryContext context);
extern bool watermark_shows(const Watermark *watermark, uint64 xid);
extern char *watermark_current_snapshot(MemoryContext context);
extern Watermark *watermark_propose(MemoryContext context);
extern void watermark_insert(int32 database_id, const Watermark *watermark);
extern void watermark_store(const Watermark *watermark);

#endif							/* OUTBOX_WATERMARK_TABLE_H */
