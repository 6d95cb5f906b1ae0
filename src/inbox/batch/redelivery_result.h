/*-------------------------------------------------------------------------
 *
 * redelivery_result.h
 *	  What becomes of messages that were tried again, and of their keys.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REDELIVERY_RESULT_H
#define OUTBOX_REDELIVERY_RESULT_H

#include "postgres.h"

#include "inbox/batch/redelivery_round.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"

extern bool retry_take_result(Round *round, InboxMessage *message,
							  bool succeeded);
extern void retry_set_next(Round *round, const Waiting *waiting,
						   const InboxMessage *message, Outcome *outcome);
extern void retry_apply(Round *round);

#endif							/* OUTBOX_REDELIVERY_RESULT_H */
