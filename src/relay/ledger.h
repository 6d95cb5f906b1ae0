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

typedef struct Ledger Ledger;

extern Ledger *ledger_create(MemoryContext context);
extern uint64 ledger_add_event(Ledger *ledger, TimestampTz commit_time);
extern void ledger_close_commit(Ledger *ledger, XLogRecPtr end);
extern void ledger_acknowledge(Ledger *ledger, uint64 entry);
extern bool ledger_covers(const Ledger *ledger, XLogRecPtr position);
extern uint64 ledger_unconfirmed_events(const Ledger *ledger);
extern bool ledger_is_empty(const Ledger *ledger);
extern XLogRecPtr ledger_acknowledged(const Ledger *ledger);
extern TimestampTz ledger_oldest_commit(const Ledger *ledger);

#endif							/* OUTBOX_LEDGER_H */
