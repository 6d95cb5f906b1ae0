/*-------------------------------------------------------------------------
 *
 * partition_takeover.h
 *	  Takes new partitions over: finds out where they are to be read from,
 *	  and raises the fences of their rows in inbox.position.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARTITION_TAKEOVER_H
#define OUTBOX_PARTITION_TAKEOVER_H

#include "postgres.h"

#include "inbox/partition/takeover_candidate.h"
#include "inbox/process/inbox_worker.h"

extern void takeover_begin(InboxWorker *worker, Search *search);
extern TimestampTz takeover_due(InboxWorker *worker, const Search *search);
extern bool takeover_continue(InboxWorker *worker, Search *search);
extern Datum takeover_result(uint64 row, int column, bool *isnull);
extern Candidate *takeover_candidate(Search *search, uint64 row);

#endif							/* OUTBOX_PARTITION_TAKEOVER_H */
