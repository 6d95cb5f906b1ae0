/*-------------------------------------------------------------------------
 *
 * subscription.h
 *	  A row of inbox.subscription, as far as a worker needs it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUBSCRIPTION_H
#define OUTBOX_SUBSCRIPTION_H

#include "postgres.h"

#include "inbox/message/identity_rules.h"
#include "inbox/subscription/handler_lookup.h"

typedef enum Ordering
{
	ORDERING_KEY,
	ORDERING_PARTITION,
	ORDERING_NONE
} Ordering;

/* A row of inbox.subscription, as far as a worker needs it. */
typedef struct Subscription
{
	char	   *name;
	char	  **topics;
	int			ntopics;
	char	   *handler;
	HandlerKind handler_kind;
	Oid			role;
	char	   *role_name;
	char	   *search_path;
	char	   *server;
	char	   *group;
	const char *kafka_isolation;
	int			xact_isolation; /* XACT_READ_COMMITTED ... */
	int64		start_ms;		/* CONSUMER_EARLIEST, or a Unix time */
	int			max_attempts;
	int64		backoff_ms;
	Ordering	ordering;
	bool		stops;			/* at a message that failed for good */
	int			batch_size;
	int			workers;
	char	  **event_types;	/* NULL for all */
	int			nevent_types;
	bool		keeps;			/* are processed messages stored? */
	int64		timeout_ms;		/* of a call of the handler */
	int64		batch_time_ms;	/* that a transaction may take */
	IdentityRules identity;
	int64		generation;
} Subscription;

#endif							/* OUTBOX_SUBSCRIPTION_H */
