/*-------------------------------------------------------------------------
 *
 * slot_decoder.h
 *	  The relay's slot, and decoding from it in this process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SLOT_DECODER_H
#define OUTBOX_SLOT_DECODER_H

#include "postgres.h"

#include "access/xlogdefs.h"

#include "core/replication_slot.h"
#include "relay/wal/output_plugin.h"

extern void decode_slot_name(char *name);
extern SlotCondition decode_slot_condition(void);
extern void decode_slot_drop(void);

extern void decode_slot_unpin(void);
extern void decode_slot_keep(void);

extern void decode_open(const EventSink *sink);
extern XLogRecPtr decode_limit(void);
extern bool decode_next(XLogRecPtr limit);
extern XLogRecPtr decode_position(void);
extern XLogRecPtr decode_wal_end(void);
extern XLogRecPtr decode_confirmed(void);
extern bool decode_is_open(void);
extern bool decode_has_slot(void);
extern TransactionId decode_oldest_open(void);
extern uint64 decode_open_wal(void);
extern void decode_held_wal(uint64 *owed, uint64 *pinned);
extern void decode_confirm(XLogRecPtr position);
extern void decode_save_slot(void);
extern void decode_leave(void);
extern bool decode_trim(void);

#endif							/* OUTBOX_SLOT_DECODER_H */
