/*-------------------------------------------------------------------------
 *
 * repeated_messages.h
 *	  What a batch need not process: what is not wanted, and what came before.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REPEATED_MESSAGES_H
#define OUTBOX_REPEATED_MESSAGES_H

#include "postgres.h"

#include "inbox/batch/message_batch.h"
#include "inbox/message/message.h"
#include "inbox/subscription/subscription.h"

extern bool repeated_messages_is_wanted(const Subscription *subscription,
										const InboxMessage *message);
extern void repeated_messages_look(Batch *batch);
extern void repeated_messages_drop(Batch *batch);
extern void repeated_messages_end_before(Batch *batch, int end);
extern void repeated_messages_remove_replaced(Batch *batch);

#endif							/* OUTBOX_REPEATED_MESSAGES_H */
