/*-------------------------------------------------------------------------
 *
 * message_identity.h
 *	  What tells a message from others, and what it is about: the choice of
 *	  who subscribes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MESSAGE_IDENTITY_H
#define OUTBOX_MESSAGE_IDENTITY_H

#include "postgres.h"

#include "utils/array.h"

#include "inbox/message/identity_rules.h"
#include "inbox/message/message.h"
#include "inbox/message/message_headers.h"
#include "inbox/table/dedup.h"

/* The names in inbox.received of a subscription. */
typedef struct IdentityConsumers
{
	const char *subscription;
	char	   *topic;			/* NULL before the first message */
	Datum		all_topics;
	Datum		one_topic;
} IdentityConsumers;

extern void message_identity_set_field(FieldRule *rule, const char *argument,
									   const char *name, MemoryContext context);
extern void message_identity_set(InboxMessage *message, const IdentityRules *rules,
								 const MessageHeaders *headers, int64 unix_ms);
extern void message_identity_fill_item(ReceivedItem *item, const IdentityRules *rules,
									   IdentityConsumers *consumers,
									   const InboxMessage *message);
extern bool message_identity_take_conflict(InboxMessage *message,
										   const IdentityRules *rules,
										   ReceivedItem *item);
extern bool message_identity_set_again(InboxMessage *message,
									   const IdentityRules *rules);

#endif							/* OUTBOX_MESSAGE_IDENTITY_H */
