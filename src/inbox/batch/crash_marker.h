/*-------------------------------------------------------------------------
 *
 * crash_marker.h
 *	  The mark of a worker that has worked since the server last crashed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CRASH_MARKER_H
#define OUTBOX_CRASH_MARKER_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern void culprit_look(InboxWorker *worker, int first);
extern void culprit_rest(InboxWorker *worker);

#endif							/* OUTBOX_CRASH_MARKER_H */
