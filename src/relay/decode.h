/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  The relay's slot, and decoding from it in this process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DECODE_H
#define OUTBOX_DECODE_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "utils/snapshot.h"

#include "relay/plugin.h"

/* State of the slot before it is used. */
typedef enum SlotCondition
{
	SLOT_MISSING,
	SLOT_USABLE,
	SLOT_INVALIDATED,			/* the server removed WAL that it needs */
	SLOT_FOREIGN				/* the name is taken by a slot of another kind */
} SlotCondition;

extern void decode_slot_name(char *name);
extern SlotCondition decode_slot_condition(void);
extern void decode_slot_drop(void);
extern void decode_slot_forget(Oid database);

extern Snapshot decode_slot_create(void);
extern void decode_slot_unpin(void);
extern void decode_slot_keep(void);

extern void decode_open(const EventSink *sink);
extern XLogRecPtr decode_limit(void);
extern bool decode_next(XLogRecPtr limit);
extern XLogRecPtr decode_position(void);
extern XLogRecPtr decode_wal_end(void);
extern XLogRecPtr decode_confirmed(void);
extern uint64 decode_held_wal(void);
extern void decode_confirm(XLogRecPtr position);
extern void decode_save_slot(void);
extern void decode_leave(void);
extern bool decode_trim(void);

#endif							/* OUTBOX_DECODE_H */
