/*-------------------------------------------------------------------------
 *
 * stray_positions.h
 *	  Positions in partitions that do not exist.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STRAY_POSITIONS_H
#define OUTBOX_STRAY_POSITIONS_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void stray_positions_remove(InboxWorker *worker, Search *search);

#endif							/* OUTBOX_STRAY_POSITIONS_H */
