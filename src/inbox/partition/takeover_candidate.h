/*-------------------------------------------------------------------------
 *
 * takeover_candidate.h
 *	  Partitions that are to be taken over.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TAKEOVER_CANDIDATE_H
#define OUTBOX_TAKEOVER_CANDIDATE_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

/* A partition that is to be taken over. */
typedef struct Candidate
{
	TopicPartition key;			/* hash key */
	int			leader;
	int64		fence;			/* that its row has, or is to have */
	bool		lookup;			/* is Kafka to be asked where it begins? */
	bool		had;			/* if so: it has told */
	bool		noted;			/* or has not, and will not */
	bool		taken;			/* it was taken over */
	bool		left;			/* it has only messages that wait */
	int64		start;			/* what to ask for */
	int64		offset;			/* where to begin unless there is a position */
} Candidate;

#endif							/* OUTBOX_TAKEOVER_CANDIDATE_H */
