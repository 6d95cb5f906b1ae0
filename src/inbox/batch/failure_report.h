/*-------------------------------------------------------------------------
 *
 * failure_report.h
 *	  Tells the server's log what became of messages that nobody looks after.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FAILURE_REPORT_H
#define OUTBOX_FAILURE_REPORT_H

#include "postgres.h"

#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

extern void failure_report_failed(InboxWorker *worker, const InboxMessage *message);
extern void failure_report_settle(InboxWorker *worker, bool committed);
extern void failure_report_check(InboxWorker *worker);
extern TimestampTz failure_report_due(const InboxWorker *worker);
extern void failure_report_end(InboxWorker *worker);

#endif							/* OUTBOX_FAILURE_REPORT_H */
