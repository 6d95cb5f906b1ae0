/*-------------------------------------------------------------------------
 *
 * message_text.c
 *	  Bytes of Kafka as text of the database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/message/message_text.h"

#include "core/slice.h"
#include "core/utf8.h"

/*
 * Bytes as text of the database, in the current memory context; NULL when they
 * are none.  Needs a transaction.
 */
char *
message_to_text(Slice bytes)
{
	return bytes.data ? utf8_to_database(bytes.data, bytes.len) : NULL;
}
