/*-------------------------------------------------------------------------
 *
 * unprocessed_rows.h
 *	  The rows of inbox.message that wait or have failed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UNPROCESSED_ROWS_H
#define OUTBOX_UNPROCESSED_ROWS_H

#include "postgres.h"

#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

/* What inbox.message has of a message. */
typedef enum StoredStatus
{
	STORED_NOT,					/* nothing, or it was processed */
	STORED_PENDING,
	STORED_FAILED,
	STORED_OTHER				/* one of its id, with another content */
} StoredStatus;

extern void unprocessed_note(void);
extern bool unprocessed_may_exist(void);
extern void unprocessed_look(InboxWorker *worker);
extern StoredStatus *unprocessed_find(const InboxMessage *messages, int n,
									  bool by_position);
extern void unprocessed_remove_failed(const InboxMessage *messages,
									  const bool *chosen, int n,
									  bool by_position);
extern bool unprocessed_update(InboxWorker *worker, InboxMessage *message);
extern void unprocessed_rename(const Oid *types, const Datum *values);

#endif							/* OUTBOX_UNPROCESSED_ROWS_H */
