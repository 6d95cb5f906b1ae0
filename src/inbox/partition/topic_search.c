/*-------------------------------------------------------------------------
 *
 * topic_search.c
 *	  Looks for the topics of a subscription: those that it names, and those
 *	  that match a pattern; and whether each can be read from.
 *
 * Kafka is asked once for all that are named, and once for all that there are
 * where there is a pattern, and messages are handled while the answer is under
 * way: to a client of a big cluster it may take seconds.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/topic_search.h"

#include "catalog/pg_collation.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/monotonic_clock.h"
#include "event/topic_name.h"
#include "inbox/partition/partition_doubt.h"
#include "inbox/partition/search_state.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/subscription.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

/* Does the subscription have a pattern? */
static bool
has_pattern(const Subscription *subscription)
{
	for (int i = 0; i < subscription->ntopics; i++)
		if (subscription->topics[i][0] == '^')
			return true;
	return false;
}

static FoundTopic *
find_topic(Search *search, const char *name)
{
	return hash_search(search->topics, name, HASH_FIND, NULL);
}

/*
 * Is there a topic of that name among those that are looked for, or found?
 */
bool
search_has(Search *search, const char *topic)
{
	return find_topic(search, topic) != NULL;
}

/* The topic of that name; made when it is not there. */
static FoundTopic *
enter_topic(Search *search, const char *name)
{
	bool		found;
	FoundTopic *topic = hash_search(search->topics, name, HASH_ENTER, &found);

	if (!found)
	{
		topic->named = topic->answered = false;
		topic->partitions = 0;
		topic->leaders = NULL;
		topic->watched = NULL;
		topic->verdict = VERDICT_NONE;
	}
	return topic;
}

/*
 * Something could not be had; about a topic, unless that is NULL.
 */
void
search_failed(InboxWorker *worker, Search *search, const char *topic)
{
	const char *error = consumer_error(worker->consumer);

	search->incomplete = true;
	search->unreached = consumer_unreached(worker->consumer);
	if (topic)
	{
		snprintf(search->error, CONSUMER_MESSAGE_LEN, "topic \"%s\": %s", topic,
				 error);
		health_missing(worker, topic);
	}
	else
		strlcpy(search->error, error, CONSUMER_MESSAGE_LEN);
}

/*
 * A question is about to be asked.
 */
void
search_asked(Search *search)
{
	search->asked_at = monotonic_now();
	search->slow_shown = false;
}

/* Asks the next question; when that cannot be done, the search has failed. */
static void
ask(InboxWorker *worker, Search *search, SearchStep step)
{
	search->step = step;
	search_asked(search);
	if (!consumer_ask_topics(worker->consumer, step == SEARCH_ALL))
	{
		search_failed(worker, search, NULL);
		search->step = SEARCH_FOUND;
	}
}

/*
 * Begins a look for the subscription's topics.
 */
Search *
search_begin(InboxWorker *worker)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox topics",
												  ALLOCSET_DEFAULT_SIZES);
	Search	   *search = MemoryContextAllocZero(context, sizeof(Search));
	Subscription *subscription = worker->subscription;
	HASHCTL		ctl = {
		.keysize = CONSUMER_TOPIC_LEN,
		.entrysize = sizeof(FoundTopic),
		.hcxt = context,
	};

	search->context = context;
	search->topics = hash_create("outbox topics", 256, &ctl,
								 HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	for (int i = 0; i < subscription->ntopics; i++)
		if (subscription->topics[i][0] != '^')
			enter_topic(search, subscription->topics[i])->named = true;
	ask(worker, search, has_pattern(subscription) ? SEARCH_ALL : SEARCH_NAMED);
	return search;
}

/*
 * Does a topic match one of the subscription's patterns?  Those that begin with
 * two underscores are Kafka's own, and others relays'.
 */
static bool
matches_pattern(const Subscription *subscription, const char *topic)
{
	if (strncmp(topic, "__", 2) == 0 ||
		strncmp(topic, PROGRESS_TOPIC_PREFIX, strlen(PROGRESS_TOPIC_PREFIX)) == 0)
		return false;
	for (int i = 0; i < subscription->ntopics; i++)
		if (subscription->topics[i][0] == '^' &&
			RE_compile_and_execute(cstring_to_text(subscription->topics[i]),
								   unconstify(char *, topic), strlen(topic),
								   REG_ADVANCED, C_COLLATION_OID, 0, NULL))
			return true;
	return false;
}

/* Takes what the answer says of its i-th topic, which can be read from. */
static void
take_topic(InboxWorker *worker, Search *search, FoundTopic *topic, int i,
		   const ConsumerTopic *answer)
{
	topic->partitions = answer->partitions;
	topic->leaders = MemoryContextAlloc(search->context,
										sizeof(int) * Max(answer->partitions, 1));
	for (int p = 0; p < answer->partitions; p++)
		topic->leaders[p] = consumer_leader(worker->consumer, i, p);
	if (answer->leaderless < 0)
		return;
	snprintf(search->error, CONSUMER_MESSAGE_LEN,
			 "partition %d of topic \"%s\" has no leader: its broker is away",
			 answer->leaderless, topic->name);
	search->incomplete = true;
	search->unreached = false;
}

/* Takes the topics that match a pattern from the answer. */
static void
take_all(InboxWorker *worker, Search *search)
{
	for (int i = 0; i < consumer_ntopics(worker->consumer); i++)
	{
		ConsumerTopic answer;
		FoundTopic *topic;

		consumer_topic(worker->consumer, i, &answer);
		if (!answer.readable || strlen(answer.name) >= CONSUMER_TOPIC_LEN ||
			!matches_pattern(worker->subscription, answer.name))
			continue;
		topic = enter_topic(search, answer.name);
		if (topic->named)
			continue;
		topic->answered = true;
		take_topic(worker, search, topic, i, &answer);
	}
}

/*
 * Is there anything to ask for by name: topics that are named, or that a
 * pattern does not find any more?  Kafka hides those that we may not see.
 */
static bool
asks_by_name(InboxWorker *worker, Search *search)
{
	for (int i = 0; i < worker->subscription->ntopics; i++)
		if (worker->subscription->topics[i][0] != '^')
			return true;
	for (int i = 0; i < worker->npartitions; i++)
		if (!worker->partitions[i]->gone &&
			find_topic(search, worker->partitions[i]->at.topic) == NULL)
			return true;
	return false;
}

/* Makes entries of the topics that a pattern does not find any more. */
static void
enter_hidden(InboxWorker *worker, Search *search)
{
	for (int i = 0; i < worker->npartitions; i++)
		if (!worker->partitions[i]->gone)
			(void) enter_topic(search, worker->partitions[i]->at.topic);
}

/* Takes what the answer says of topics that are asked for by name. */
static void
take_named(InboxWorker *worker, Search *search)
{
	enter_hidden(worker, search);
	for (int i = 0; i < consumer_ntopics(worker->consumer); i++)
	{
		ConsumerTopic answer;
		FoundTopic *topic;

		consumer_topic(worker->consumer, i, &answer);
		topic = find_topic(search, answer.name);
		if (topic == NULL || topic->answered ||
			(!answer.readable && consumer_topic_unknown(worker->consumer)))
			continue;
		topic->answered = true;
		if (answer.readable)
			take_topic(worker, search, topic, i, &answer);
		else
			search_failed(worker, search, answer.name);
	}
}

/* A topic that is named must exist; one that a pattern had found may go. */
static void
check_missing(InboxWorker *worker, Search *search)
{
	for (int i = 0; i < worker->subscription->ntopics; i++)
	{
		const char *name = worker->subscription->topics[i];

		if (name[0] == '^' || find_topic(search, name)->answered)
			continue;
		consumer_set_topic_unknown(worker->consumer);
		search_failed(worker, search, name);
	}
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];
		FoundTopic *topic = find_topic(search, partition->at.topic);

		if (topic != NULL && !topic->named && !topic->answered)
			partition->gone = true;
	}
}

/* Goes on with the answer to the last question. */
static void
take_answer(InboxWorker *worker, Search *search)
{
	if (search->step == SEARCH_ALL)
	{
		take_all(worker, search);
		if (asks_by_name(worker, search))
		{
			ask(worker, search, SEARCH_NAMED);
			return;
		}
	}
	else
	{
		take_named(worker, search);
		check_missing(worker, search);
	}
	search->step = SEARCH_FOUND;
}

/*
 * Goes on with a look for topics, if an answer has come.  Returns whether all is
 * known that can be.
 */
bool
search_continue(InboxWorker *worker, Search *search)
{
	bool		reached;
	MemoryContext old;

	if (search->step == SEARCH_FOUND)
		return true;
	if (!consumer_take_topics(worker->consumer, &reached))
		return false;
	old = MemoryContextSwitchTo(search->context);
	if (reached)
		take_answer(worker, search);
	else
	{
		search_failed(worker, search, NULL);
		search->step = SEARCH_FOUND;
	}
	MemoryContextSwitchTo(old);
	return search->step == SEARCH_FOUND;
}
