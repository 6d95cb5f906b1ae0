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

extern void slot_decoder_slot_name(char *name);
extern SlotCondition slot_decoder_slot_condition(void);
extern void slot_decoder_slot_drop(void);

extern void slot_decoder_slot_unpin(void);
extern void slot_decoder_slot_keep(void);

extern void slot_decoder_open(const EventSink *sink);
extern XLogRecPtr slot_decoder_limit(void);
extern bool slot_decoder_next(XLogRecPtr limit);
extern XLogRecPtr slot_decoder_position(void);
extern XLogRecPtr slot_decoder_wal_end(void);
extern XLogRecPtr slot_decoder_confirmed(void);
extern bool slot_decoder_is_open(void);
extern bool slot_decoder_has_slot(void);
extern TransactionId slot_decoder_oldest_open(void);
extern uint64 slot_decoder_open_wal(void);
extern void slot_decoder_held_wal(uint64 *owed, uint64 *pinned);
extern void slot_decoder_confirm(XLogRecPtr position);
extern void slot_decoder_save_slot(void);
extern void slot_decoder_leave(void);
extern bool slot_decoder_trim(void);

#endif							/* OUTBOX_SLOT_DECODER_H */
