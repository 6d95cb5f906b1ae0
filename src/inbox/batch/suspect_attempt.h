/*-------------------------------------------------------------------------
 *
 * suspect_attempt.h
 *	  Counts an attempt of a suspect before it begins.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUSPECT_ATTEMPT_H
#define OUTBOX_SUSPECT_ATTEMPT_H

#include "postgres.h"

#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

/* What became of a suspect that was to be charged. */
typedef enum Charge
{
	CHARGE_NONE,				/* it is none, or not there any more */
	CHARGE_RUNS,				/* it is charged, and may run */
	CHARGE_FAILED				/* it has no attempts left */
} Charge;

extern void suspect_attempt_count(InboxWorker *worker, InboxMessage *message);
extern void suspect_attempt_take_back(InboxMessage *message);
extern Charge suspect_attempt_first(InboxWorker *worker, Waiting *waiting);
extern void suspect_attempt_make_durable(void);
extern void suspect_attempt_fail_at_commit(Round *round);
extern void suspect_attempt_end(InboxWorker *worker);

#endif							/* OUTBOX_SUSPECT_ATTEMPT_H */
