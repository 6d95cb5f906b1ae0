/*-------------------------------------------------------------------------
 *
 * handler_call.h
 *	  Calls a subscription's handler, as the role that subscribed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HANDLER_CALL_H
#define OUTBOX_HANDLER_CALL_H

#include "postgres.h"

#include "fmgr.h"

#include "inbox/batch/handler_failure.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

typedef struct Handler
{
	InboxWorker *worker;
	FmgrInfo	function;
	Oid			element_type;	/* of inbox.message */
	bool		takes_array;
} Handler;

extern void handler_find(Handler *handler, InboxWorker *worker);
extern bool handler_run(Handler *handler, InboxMessage **messages, int *n,
						HandlerFailure *failure);
extern bool handler_error_is_transient(int sqlstate);
extern void handler_keep_failure(HandlerFailure *failure);
extern void handler_refuse_to_move(const char *subscription);
extern bool handler_is_overdue(void);
extern void handler_clean_up_in_transaction(void);
extern void handler_clean_up_after_transaction(void);

#endif							/* OUTBOX_HANDLER_CALL_H */
