/*-------------------------------------------------------------------------
 *
 * catchup_table.h
 *	  What catch-up keeps in the database, and what it finds out there about
 *	  the events of a round.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_TABLE_H
#define OUTBOX_CATCHUP_TABLE_H

#include "postgres.h"

#include "relay/state/catchup_progress.h"

/* The events of a round that are to be read. */
typedef struct CatchupRange
{
	char	   *published;		/* the database's watermark when the round
								 * began */
	int64		through_id;		/* the last event's id */
} CatchupRange;

/* A transaction of a round. */
typedef struct RoundTransaction
{
	uint64		xid;
	int64		first_id;		/* of its events */
	int64		last_id;
	int64		events;
	int64		bytes;			/* of their payloads */
} RoundTransaction;

typedef struct TransactionList
{
	MemoryContext context;		/* for items */
	RoundTransaction *items;	/* NULL at first */
	uint64		count;
	uint64		size;			/* that items has room for */
} TransactionList;

extern CatchupProgress *catchup_load(int32 database_id, MemoryContext context);
extern void catchup_save(const CatchupProgress *progress);
extern void catchup_save_at_exit(const CatchupProgress *progress);
extern bool catchup_adopt(const CatchupProgress *progress);
extern void catchup_settle(const CatchupProgress *progress, bool forget_database);
extern void catchup_count(CatchupProgress *progress, CatchupRange *range,
						  MemoryContext context);
extern void catchup_list(const CatchupProgress *progress,
						 const CatchupRange *range, int64 ends_after,
						 int64 begins_until, int64 limit,
						 TransactionList *list);
extern void catchup_turn_off(const char *const *settings);
extern Datum catchup_snapshot_datum(const char *snapshot);

#endif							/* OUTBOX_CATCHUP_TABLE_H */
