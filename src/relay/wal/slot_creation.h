/*-------------------------------------------------------------------------
 *
 * slot_creation.h
 *	  Creates the relay's slot, without waiting for anybody.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SLOT_CREATION_H
#define OUTBOX_SLOT_CREATION_H

#include "postgres.h"

#include "access/xlogdefs.h"

extern bool slot_creation_seek(XLogRecPtr not_before, TransactionId *waits_for);
extern bool slot_creation_has_more(void);
extern TransactionId slot_creation_committing(void);
extern const char *slot_creation_snapshot(void);

#endif							/* OUTBOX_SLOT_CREATION_H */
