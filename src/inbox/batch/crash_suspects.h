/*-------------------------------------------------------------------------
 *
 * crash_suspects.h
 *	  Finds the message that ends a process.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CRASH_SUSPECTS_H
#define OUTBOX_CRASH_SUSPECTS_H

#include "postgres.h"

#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

extern void culprit_under_way(InboxWorker *worker, const InboxMessage *message);
extern void culprit_clear(InboxWorker *worker);
extern void culprit_suspect(InboxWorker *worker);
extern bool culprit_is_suspect(InboxWorker *worker, const Partition *partition,
							   const InboxMessage *message, bool stored);
extern void culprit_passed(InboxWorker *worker, Partition *partition,
						   const InboxMessage *message, bool repeated);
extern void culprit_acquit(InboxWorker *worker);
extern void culprit_look(InboxWorker *worker, int first);
extern void culprit_rest(InboxWorker *worker);

#endif							/* OUTBOX_CRASH_SUSPECTS_H */
