/*-------------------------------------------------------------------------
 *
 * commit.h
 *	  The commit that an event belongs to.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMMIT_H
#define OUTBOX_COMMIT_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

/* The commit that an event belongs to. */
typedef struct Commit
{
	XLogRecPtr	end;			/* of the commit record, which no other commit
								 * has; invalid for an event out of the table */
	TimestampTz time;
	bool		send_time;		/* the record has the time of sending, however
								 * long after the commit that is */
} Commit;

#endif							/* OUTBOX_COMMIT_H */
