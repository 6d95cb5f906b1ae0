/*-------------------------------------------------------------------------
 *
 * event_index_summary.h
 *	  Keeps the index on xid of outbox.event complete while the table is polled.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_INDEX_SUMMARY_H
#define OUTBOX_EVENT_INDEX_SUMMARY_H

#include "postgres.h"

extern void event_index_summarize(uint64 events);

#endif							/* OUTBOX_EVENT_INDEX_SUMMARY_H */
