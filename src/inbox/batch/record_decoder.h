/*-------------------------------------------------------------------------
 *
 * record_decoder.h
 *	  Makes a message of any record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RECORD_DECODER_H
#define OUTBOX_RECORD_DECODER_H

#include "postgres.h"

#include "inbox/batch/handler_failure.h"
#include "inbox/message/message.h"
#include "inbox/subscription/subscription.h"
#include "kafka/consumer/consumer.h"

extern void record_decoder_record(const Subscription *subscription,
								  InboxMessage *message, const ConsumerRecord *record);
extern bool record_decoder_was_too_much(const ConsumerRecord *const *records, int n);
extern void record_decoder_without(const Subscription *subscription,
								   InboxMessage *message, const ConsumerRecord *record,
								   const HandlerFailure *failure);

#endif							/* OUTBOX_RECORD_DECODER_H */
