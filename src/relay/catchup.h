/*-------------------------------------------------------------------------
 *
 * catchup.h
 *	  Publishes events that no slot will deliver.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CATCHUP_H
#define OUTBOX_CATCHUP_H

#include "relay/relay.h"

/*
 * How far a round of catch-up has come.  A round goes through the events of
 * one home that "snapshot" shows and the home's latest watermark does not, in
 * the order of their ids.
 *
 * What it says about Kafka, at any time: an event of this home is there when
 * the latest watermark shows its transaction; or when "snapshot" does and its
 * id is last_id or less.  That stays true whatever else commits, also with a
 * lower id, because the snapshot does not change.
 *
 * It is stored in outbox.catchup while the round lasts.  Whoever finds a
 * stored round finishes that one first, with its snapshot, whoever began it;
 * then the snapshot becomes the watermark.  So there is never more than one
 * for a home, however often relays are killed.
 */
typedef struct CatchupProgress
{
	int32		home;			/* this database, or one that it adopted */
	char	   *snapshot;		/* a pg_snapshot, as text */
	XLogRecPtr	lsn;			/* what it shows was committed before */
	int64		last_id;		/* acknowledged up to here */
	uint64		done;			/* events acknowledged */
	uint64		total;			/* events of the round, counted when this
								 * process began it or went on with it */
} CatchupProgress;

extern void catchup_run(Relay *relay);
extern uint64 catchup_poll(Relay *relay);
extern const CatchupProgress *catchup_progress(Relay *relay);
extern void catchup_leave(Relay *relay);

#endif							/* OUTBOX_CATCHUP_H */
