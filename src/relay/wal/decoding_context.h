/*-------------------------------------------------------------------------
 *
 * decoding_context.h
 *	  Decoding contexts that read WAL without waiting for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DECODING_CONTEXT_H
#define OUTBOX_DECODING_CONTEXT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "replication/logical.h"

extern LogicalDecodingContext *decoding_context_create_slot(const char *name);
extern LogicalDecodingContext *decoding_context_open(void);
extern bool decoding_context_read(LogicalDecodingContext *context, XLogRecPtr limit);

#endif							/* OUTBOX_DECODING_CONTEXT_H */
