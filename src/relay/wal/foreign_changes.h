/*-------------------------------------------------------------------------
 *
 * foreign_changes.h
 *	  Changes of tables that hold no events, which need no decoding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FOREIGN_CHANGES_H
#define OUTBOX_FOREIGN_CHANGES_H

#include "postgres.h"

#include "access/xlogreader.h"
#include "replication/logical.h"
#include "utils/rel.h"

extern void foreign_changes_process_record(LogicalDecodingContext *context);
#ifdef OUTBOX_CHECK_FOREIGN
extern void foreign_changes_check_event(XLogRecPtr lsn, Relation relation);
#endif

#endif							/* OUTBOX_FOREIGN_CHANGES_H */
