/*-------------------------------------------------------------------------
 *
 * replication_slot.h
 *	  The replication slots of relays, for whoever does not decode from them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REPLICATION_SLOT_H
#define OUTBOX_REPLICATION_SLOT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

/* State of the slot of a database. */
typedef enum SlotCondition
{
	SLOT_MISSING,
	SLOT_USABLE,
	SLOT_INVALIDATED,			/* the server no longer keeps WAL for it */
	SLOT_FOREIGN				/* the name is taken by a slot of another kind */
} SlotCondition;

extern void slot_name_of(Oid database, char *name);
extern SlotCondition slot_condition_of(Oid database);
extern bool slot_positions(Oid database, XLogRecPtr *restart,
						   XLogRecPtr *confirmed);
extern void slot_forget(Oid database);
extern XLogRecPtr slot_wal_end(void);
extern TimestampTz slot_limit_unattended(void);

#endif							/* OUTBOX_REPLICATION_SLOT_H */
