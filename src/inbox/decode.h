/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  Makes a message of any record.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_DECODE_H
#define OUTBOX_INBOX_DECODE_H

#include "inbox/message.h"
#include "inbox/worker.h"

extern void decode_record(const Subscription *subscription,
						  InboxMessage *message, const ConsumerRecord *record);

#endif							/* OUTBOX_INBOX_DECODE_H */
