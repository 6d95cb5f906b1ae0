/*-------------------------------------------------------------------------
 *
 * subscription_list.h
 *	  Which entries of consumers.c there are, and for whom.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUBSCRIPTION_LIST_H
#define OUTBOX_SUBSCRIPTION_LIST_H

#include "postgres.h"

#include "registry/consumer_entry.h"

/* A subscription, as a scout saw it. */
typedef struct ListedSubscription
{
	const char *name;
	int			workers;
	int64		generation;
} ListedSubscription;

extern void consumers_request_scout(Oid database);
extern bool consumers_crowded(Oid database);
extern bool consumers_finish_scout(ConsumerEntry *entry, int64 generation);
extern uint64 consumers_list_number(Oid database);
extern bool consumers_publish_list(Oid database, uint64 number,
								   const ListedSubscription *list, int n);
extern void consumers_release(ConsumerEntry *entry);

#endif							/* OUTBOX_SUBSCRIPTION_LIST_H */
