/*-------------------------------------------------------------------------
 *
 * catchup_progress.h
 *	  How far a round of catch-up has come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_PROGRESS_H
#define OUTBOX_CATCHUP_PROGRESS_H

#include "postgres.h"

#include "access/xlogdefs.h"

/*
 * A round goes through the events of one database that "snapshot" shows and the
 * database's latest watermark does not.  Its order is that of their ids; or, when
 * transactions are to stay whole, one transaction after the other in the order
 * of their last events' ids.
 *
 * What it says about Kafka, at any time: an event of this database is there when
 * the latest watermark shows its transaction; or when "snapshot" does and
 *
 *	 in the order of ids	its id is last_id or less;
 *	 transaction by			the last event of its transaction has the id
 *	 transaction			last_id or less; or its own is from_id or less.
 *
 * That stays true whatever else commits, also with a lower id, because the
 * snapshot does not change.
 *
 * It is stored in outbox.catchup while the round lasts, and, when deliveries
 * are exact, in the record of each Kafka transaction.  Whoever finds a stored
 * round finishes that one first, with its snapshot, whoever began it; then the
 * snapshot becomes the watermark.  So there is never more than one for a database,
 * however often relays are killed.
 */
typedef struct CatchupProgress
{
	int32		database_id;	/* this database, or one that it adopted */
	char	   *snapshot;		/* a pg_snapshot, as text */
	XLogRecPtr	lsn;			/* what it shows was committed before */
	XLogRecPtr	safe_lsn;		/* up to here WAL was safe before anything was
								 * sent, all that the snapshot shows included;
								 * invalid until then */
	bool		whole;			/* transaction by transaction? */
	int64		from_id;		/* then, see above */
	int64		last_id;		/* acknowledged up to here */
	uint64		done;			/* events acknowledged */
	uint64		total;			/* events of the round, counted when this
								 * process began it or went on with it */
} CatchupProgress;

#endif							/* OUTBOX_CATCHUP_PROGRESS_H */
