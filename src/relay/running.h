/*-------------------------------------------------------------------------
 *
 * running.h
 *	  Snapshots that the server itself writes to the WAL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RUNNING_H
#define OUTBOX_RUNNING_H

#include "postgres.h"

#include "access/xlogreader.h"

extern void running_note(XLogReaderState *reader);
extern char *running_take(XLogRecPtr *lsn);

#endif							/* OUTBOX_RUNNING_H */
