/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  Makes a message of any record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_DECODE_H
#define OUTBOX_INBOX_DECODE_H

#include "inbox/handler.h"
#include "inbox/message.h"
#include "inbox/worker.h"

extern void decode_record(const Subscription *subscription,
						  InboxMessage *message, const ConsumerRecord *record);
extern bool decode_was_too_much(const ConsumerRecord *const *records, int n);
extern void decode_without(const Subscription *subscription,
						   InboxMessage *message, const ConsumerRecord *record,
						   const HandlerFailure *failure);

#endif							/* OUTBOX_INBOX_DECODE_H */
