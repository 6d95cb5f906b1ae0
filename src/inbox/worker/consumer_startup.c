/*-------------------------------------------------------------------------
 *
 * consumer_startup.c
 *	  What must be in place before a consumer can work: its subscription, the
 *	  role that made it, Kafka settings, the handler and rights on both.  And
 *	  whether that is still so.
 *
 * A change of the subscription is seen in its row, as soon as there was any
 * change, or in the entry when a scout has listed it.  The scout alone would
 * not do: it may have to wait for the slot of this very process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/worker/consumer_startup.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "core/worker_session.h"
#include "inbox/batch/handler_call.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"
#include "inbox/process/worker_wait.h"
#include "inbox/subscription/subscription.h"
#include "inbox/subscription/subscription_row.h"
#include "kafka/config/config.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"
#include "registry/consumers.h"

/* How often to look whether handler and rights are there. */
#define RIGHTS_INTERVAL_MS 1000

/* Starts over when our subscription is among those that changed. */
static void
check_subscription(InboxWorker *worker)
{
	if (worker->subscriptions == consumers_subscriptions())
		return;
	worker->subscriptions = consumers_subscriptions();
	if (!subscription_is_current(worker->subscription))
		worker_restart(worker);
}

/* A role that was dropped does not come back: waits until others act. */
static void
wait_without_role(InboxWorker *worker)
{
	Subscription *subscription = worker->subscription;

	health_problem(worker, CONSUMER_STOPPED,
				   psprintf("role \"%s\", which made the subscription, does not exist any more; call inbox.unsubscribe('%s') and subscribe as another role",
							subscription->role_name, subscription->name));
	for (;;)
	{
		check_subscription(worker);
		worker_wait(worker, -1);
	}
}

/*
 * Waits until there is a subscription to serve.  When there is none, or it does
 * not have so many workers, a scout is about to say so, or it changes again.
 */
static void
wait_for_subscription(InboxWorker *worker)
{
	Subscription *found;

	for (;;)
	{
		worker->subscriptions = consumers_subscriptions();
		worker->listed = worker->entry->generation;
		found = subscription_subscription(worker->entry->name);
		if (found && worker->entry->worker < found->workers)
			break;
		while (worker->subscriptions == consumers_subscriptions() &&
			   worker->listed == worker->entry->generation)
			worker_wait(worker, -1);
	}
	worker->subscription = found;
	worker->transaction_limit = worker->subscription->batch_size;
	worker->records = MemoryContextAllocZero(TopMemoryContext,
											 sizeof(ConsumerRecord) *
											 worker->subscription->batch_size);
	if (!OidIsValid(worker->subscription->role))
		wait_without_role(worker);
	session_adopt(worker->subscription->role);
}

/* Have Kafka settings, of whatever server, or files that ours name, changed? */
static bool
settings_may_have_changed(InboxWorker *worker)
{
	return worker->configuration != consumers_configuration() ||
		(worker->config && kafka_config_files_changed(worker->config));
}

/* Waits until the Kafka settings change, since these do not do. */
static void
wait_for_settings(InboxWorker *worker, const char *reason)
{
	health_problem(worker, CONSUMER_STOPPED, reason);
	while (!settings_may_have_changed(worker))
	{
		check_subscription(worker);
		worker_wait(worker, -1);
	}
	worker_restart(worker);
}

/*
 * What the subscription lacks to take messages: a handler, or a right.  NULL
 * when it lacks nothing; else in the current memory context.  Runs a
 * transaction of its own.
 */
static char *
find_lack(InboxWorker *worker)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *volatile lack = NULL;
	Handler		handler;

	worker_begin();
	PG_TRY();
	{
		handler_find(&handler, worker);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		MemoryContextSwitchTo(context);
		lack = error->hint ? psprintf("%s (%s)", error->message, error->hint) :
			pstrdup(error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return lack;
}

/*
 * Waits until the subscription lacks nothing.  Nobody tells when a function is
 * made or a right is granted.
 */
static void
wait_for_rights(InboxWorker *worker)
{
	char	   *lack = find_lack(worker);

	if (lack == NULL)
		return;
	while (lack != NULL)
	{
		if (worker->status.state != CONSUMER_STOPPED ||
			strncmp(worker->status.error, lack, CONSUMER_MESSAGE_LEN - 1) != 0)
			health_problem(worker, CONSUMER_STOPPED, lack);
		pfree(lack);
		check_subscription(worker);
		if (settings_may_have_changed(worker))
			break;
		worker_wait(worker, RIGHTS_INTERVAL_MS);
		lack = find_lack(worker);
	}
	worker_restart(worker);
}

/*
 * Starts over when the subscription lacks something by now, to wait, or when
 * its role has other settings.  Notes when it was renamed.
 */
static void
check_role(InboxWorker *worker)
{
	static TimestampTz checked_at = 0;
	TimestampTz now = monotonic_now();
	bool		outdated;
	bool		renamed;
	char	   *name;

	if (!TimestampDifferenceExceeds(checked_at, now, RIGHTS_INTERVAL_MS))
		return;
	checked_at = now;
	worker_begin();
	outdated = session_is_outdated();
	name = GetUserNameFromId(worker->subscription->role, true);
	renamed = name != NULL && strcmp(name, worker->subscription->role_name) != 0;
	if (renamed)
		name = MemoryContextStrdup(TopMemoryContext, name);
	CommitTransactionCommand();
	if (renamed && subscription_note_role_names())
		worker->subscription->role_name = name;
	else if (renamed)
		pfree(name);
	if (outdated || find_lack(worker) != NULL)
		worker_restart(worker);
}

/* Reads the Kafka settings and opens the consumer. */
static void
open_kafka(InboxWorker *worker)
{
	Subscription *subscription = worker->subscription;
	char		error[CONSUMER_ERROR_LEN];
	MemoryContext old;

	worker->configuration = consumers_configuration();
	worker_begin_afresh();
	old = MemoryContextSwitchTo(TopMemoryContext);
	worker->config = kafka_config_load(subscription->server);
	MemoryContextSwitchTo(old);
	CommitTransactionCommand();
	if (worker->config == NULL)
		wait_for_settings(worker, psprintf("no Kafka settings: there is no server \"%s\" of foreign-data wrapper %s",
										   subscription->server, KAFKA_WRAPPER_NAME));
	wait_for_rights(worker);
	worker->consumer = consumer_open(worker->config, subscription->group,
									 subscription->kafka_isolation, error);
	if (worker->consumer == NULL)
		wait_for_settings(worker, error);
}

/* Has the consumer know the topics that are named in full. */
static void
know_topics(InboxWorker *worker)
{
	Subscription *subscription = worker->subscription;
	char	  **names = palloc(sizeof(char *) * Max(subscription->ntopics, 1));
	int			n = 0;

	for (int i = 0; i < subscription->ntopics; i++)
		if (subscription->topics[i][0] != '^')
			names[n++] = subscription->topics[i];
	consumer_know_topics(worker->consumer, names, n);
	pfree(names);
}

/* Starts over when our Kafka settings are among those that changed. */
static void
check_configuration(InboxWorker *worker)
{
	KafkaConfig *config;
	bool		same;

	if (!settings_may_have_changed(worker))
		return;
	worker->configuration = consumers_configuration();
	worker_begin_afresh();
	config = kafka_config_load(worker->subscription->server);
	same = config != NULL && kafka_config_equal(config, worker->config);
	CommitTransactionCommand();
	if (!same)
		worker_restart(worker);
}

/*
 * Waits until all is in place; then the worker has a subscription and a
 * consumer.
 */
void
consumer_startup_wait(InboxWorker *worker)
{
	wait_for_subscription(worker);
	open_kafka(worker);
	know_topics(worker);
	/* One that was made while there was no consumer lacks its descriptor. */
	if (worker->wait_set)
		FreeWaitEventSet(worker->wait_set);
	worker->wait_set = NULL;
}

/*
 * Starts over when something has changed that is ours.  Outside of
 * transactions.
 */
void
consumer_startup_check(InboxWorker *worker)
{
	check_configuration(worker);
	check_subscription(worker);
	check_role(worker);
}
