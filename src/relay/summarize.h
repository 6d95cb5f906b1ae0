/*-------------------------------------------------------------------------
 *
 * summarize.h
 *	  Keeps the index on xid of outbox.event complete while the table is polled.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUMMARIZE_H
#define OUTBOX_SUMMARIZE_H

#include "postgres.h"

extern void summarize_sent(uint64 events);

#endif							/* OUTBOX_SUMMARIZE_H */
