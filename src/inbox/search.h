/*-------------------------------------------------------------------------
 *
 * search.h
 *	  Looks for the topics of a subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_SEARCH_H
#define OUTBOX_INBOX_SEARCH_H

#include "inbox/worker.h"

#define KAFKA_TIMEOUT_MS 1000	/* for one question */

/* A topic as Kafka knows it. */
typedef struct FoundTopic
{
	char		name[CONSUMER_TOPIC_LEN];
	int			partitions;
	int			leaderless;		/* the first without a leader, or -1 */
} FoundTopic;

/* What a look for topics brings.  Filled by a handler that must not throw. */
typedef struct Search
{
	FoundTopic *topics;
	int			n;
	int			size;
	char		error[CONSUMER_MESSAGE_LEN];	/* why it is not complete */
	bool		unreached;		/* no broker has answered */
} Search;

extern bool search_topics(InboxWorker *worker, Search *search);

#endif							/* OUTBOX_INBOX_SEARCH_H */
