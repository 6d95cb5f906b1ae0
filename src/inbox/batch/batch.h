/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Messages that are processed in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BATCH_H
#define OUTBOX_BATCH_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void batch_process(InboxWorker *worker);

#endif							/* OUTBOX_BATCH_H */
