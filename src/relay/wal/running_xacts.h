/*-------------------------------------------------------------------------
 *
 * running_xacts.h
 *	  Snapshots in the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RUNNING_XACTS_H
#define OUTBOX_RUNNING_XACTS_H

#include "postgres.h"

#include "access/xlogreader.h"
#include "storage/standbydefs.h"

#include "relay/state/watermark.h"

extern xl_running_xacts *running_in_record(XLogReaderState *reader);
extern char *running_snapshot(TransactionId end, const TransactionId *running,
							  int nrunning, MemoryContext context);
extern void running_note(XLogReaderState *reader);
extern Watermark *running_take(void);
extern void running_write(void);

#endif							/* OUTBOX_RUNNING_XACTS_H */
