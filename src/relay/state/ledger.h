/*-------------------------------------------------------------------------
 *
 * ledger.h
 *	  Commits that await acknowledgement, oldest first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LEDGER_H
#define OUTBOX_LEDGER_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "relay/state/commit.h"

typedef struct Ledger Ledger;

/* From where a successor goes on. */
typedef struct LedgerPosition
{
	XLogRecPtr	acknowledged;	/* all commits that end here or before are */
	XLogRecPtr	commit;			/* end of the next commit, invalid when there
								 * is none or what comes next is not of one */
	uint64		events;			/* of which so many are acknowledged */
	uint64		next;			/* number of the first that is not */
	uint64		outstanding;	/* events from that on, so far */
} LedgerPosition;

extern Ledger *ledger_create(MemoryContext context);
extern uint64 ledger_add_event(Ledger *ledger, const Commit *commit);
extern void ledger_close_commit(Ledger *ledger, XLogRecPtr end);
extern void ledger_rewind(Ledger *ledger);
extern void ledger_acknowledge(Ledger *ledger, uint64 number);
extern void ledger_acknowledge_all(Ledger *ledger);
extern bool ledger_covers(const Ledger *ledger, XLogRecPtr position);
extern bool ledger_is_empty(const Ledger *ledger);
extern XLogRecPtr ledger_acknowledged(const Ledger *ledger);
extern TimestampTz ledger_oldest_commit(const Ledger *ledger);
extern LedgerPosition ledger_position(const Ledger *ledger);

#endif							/* OUTBOX_LEDGER_H */
