/*-------------------------------------------------------------------------
 *
 * dedup_batch.h
 *	  What a batch of messages adds to inbox.received.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEDUP_BATCH_H
#define OUTBOX_DEDUP_BATCH_H

#include "postgres.h"

#include "inbox/table/dedup.h"

extern void dedup_add_batch(ReceivedItem **items, int n);

#endif							/* OUTBOX_DEDUP_BATCH_H */
