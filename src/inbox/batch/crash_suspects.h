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

/* The error of an attempt during which a process has died. */
#define DEATH_SQLSTATE ERRCODE_CRASH_SHUTDOWN

extern bool crash_suspects_is_suspect(InboxWorker *worker, const Partition *partition,
									  const InboxMessage *message, bool stored);
extern void crash_suspects_passed(InboxWorker *worker, Partition *partition,
								  const InboxMessage *message, bool repeated);
extern bool waiting_is_old(const InboxWorker *worker, const Partition *partition,
						   const InboxMessage *message);

extern bool charge_is_marked(const InboxMessage *message);
extern bool charge_is_due(InboxWorker *worker, const Partition *partition,
						  const InboxMessage *message);

#endif							/* OUTBOX_CRASH_SUSPECTS_H */
