/*-------------------------------------------------------------------------
 *
 * locked_positions.h
 *	  Positions that somebody else has locked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LOCKED_POSITIONS_H
#define OUTBOX_LOCKED_POSITIONS_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

/* What a position is in the way for, as it is shown; for a format. */
#define LOCKED_POSITION \
	"the position of %s is locked by another transaction, such as one that has called inbox.seek() and is still open"

extern void locked_positions_find(Datum *args, const TopicPartition *const *keys, int n,
								  bool *locked);

#endif							/* OUTBOX_LOCKED_POSITIONS_H */
