/*-------------------------------------------------------------------------
 *
 * takeover_rows.h
 *	  The rows in inbox.position of partitions that are taken over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TAKEOVER_ROWS_H
#define OUTBOX_TAKEOVER_ROWS_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void takeover_finish(InboxWorker *worker, Search *search);

#endif							/* OUTBOX_TAKEOVER_ROWS_H */
