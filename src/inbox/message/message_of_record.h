/*-------------------------------------------------------------------------
 *
 * message_of_record.h
 *	  Makes a message of a record of Kafka.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MESSAGE_OF_RECORD_H
#define OUTBOX_MESSAGE_OF_RECORD_H

#include "postgres.h"

#include "inbox/message/identity_rules.h"
#include "inbox/message/message.h"
#include "inbox/message/message_headers.h"
#include "kafka/consumer/consumer.h"

extern void message_begin(InboxMessage *message, const char *subscription,
						  const ConsumerRecord *record);
extern void message_finish(InboxMessage *message, const IdentityRules *rules,
						   const ConsumerRecord *record,
						   const MessageHeaders *headers);

#endif							/* OUTBOX_MESSAGE_OF_RECORD_H */
