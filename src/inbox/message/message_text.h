/*-------------------------------------------------------------------------
 *
 * message_text.h
 *	  Bytes of Kafka as text of the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MESSAGE_TEXT_H
#define OUTBOX_MESSAGE_TEXT_H

#include "postgres.h"

#include "core/slice.h"

extern char *message_to_text(Slice bytes);

#endif							/* OUTBOX_MESSAGE_TEXT_H */
