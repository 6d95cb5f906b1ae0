/*-------------------------------------------------------------------------
 *
 * search_state.h
 *	  A look for topics and partitions, as its files share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SEARCH_STATE_H
#define OUTBOX_SEARCH_STATE_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

#define PATIENCE_MS 1000		/* that an answer may take, */

typedef enum SearchStep
{
	SEARCH_ALL,					/* asked for all topics */
	SEARCH_NAMED,				/* for those that are named, and for what has
								 * disappeared */
	SEARCH_FOUND,				/* all there are is known */
	SEARCH_OFFSETS,				/* asked where new partitions begin */
	SEARCH_READY,				/* they can be taken over */
	SEARCH_DONE					/* all is taken over, and it was asked whether
								 * topics are still those that were read */
} SearchStep;

/* Is a topic the one that was read? */
typedef enum TopicVerdict
{
	VERDICT_NONE,
	VERDICT_SAME,
	VERDICT_SUSPECT
} TopicVerdict;

/* A topic that is named, or was found. */
typedef struct FoundTopic
{
	char		name[CONSUMER_TOPIC_LEN];	/* hash key */
	bool		named;			/* in full, by the subscription */
	bool		answered;		/* there was an answer about it */
	int			partitions;		/* 0 when it cannot be read */
	int		   *leaders;		/* of each; -1 for none */

	/* See topic_recreation.c */
	Partition  *watched;		/* that is asked for; or NULL */
	TopicVerdict verdict;
} FoundTopic;

/* A look for topics, and what it has brought so far. */
struct Search
{
	MemoryContext context;		/* of this and all that it has */
	SearchStep	step;
	HTAB	   *topics;
	bool		incomplete;		/* something could not be had; */
	bool		unreached;		/* no broker has answered; */
	char		error[CONSUMER_MESSAGE_LEN];	/* and why */
	TimestampTz asked_at;		/* the last question, by monotonic_now(); */
	bool		slow_shown;		/* that the answer takes long */

	/* See partition_takeover.c */
	HTAB	   *candidates;
	ConsumerOffset *offsets;	/* that are asked for */
	int			noffsets;
	int			told;			/* so many brokers' answers were taken */
	bool		changed;		/* there are partitions to be assigned */
	bool		overtaken;		/* a position was changed by others meanwhile */
	char		locked[CONSUMER_MESSAGE_LEN];	/* what others have locked,
												 * and is left; "" for nothing */
};

#endif							/* OUTBOX_SEARCH_STATE_H */
