/*-------------------------------------------------------------------------
 *
 * under_way.h
 *	  The messages that a worker has under way, and those that are suspect.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UNDER_WAY_H
#define OUTBOX_UNDER_WAY_H

#include "postgres.h"

#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

extern void culprit_under_way(InboxWorker *worker, const InboxMessage *message);
extern void culprit_clear(InboxWorker *worker);
extern void culprit_suspect(InboxWorker *worker);
extern void culprit_acquit(InboxWorker *worker);
extern bool culprit_is_listed(const InboxWorker *worker,
							  const InboxMessage *message);
extern void culprit_forget(InboxWorker *worker);
extern void charge_note(InboxWorker *worker, const Waiting *waiting);

#endif							/* OUTBOX_UNDER_WAY_H */
