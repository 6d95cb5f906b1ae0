/*-------------------------------------------------------------------------
 *
 * running.h
 *	  Snapshots in the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RUNNING_H
#define OUTBOX_RUNNING_H

#include "postgres.h"

#include "access/xlogreader.h"

#include "relay/watermark.h"

extern void running_note(XLogReaderState *reader);
extern Watermark *running_take(void);
extern void running_write(void);

#endif							/* OUTBOX_RUNNING_H */
