/*-------------------------------------------------------------------------
 *
 * search.c
 *	  Looks for the topics of a subscription: those that it names, and those
 *	  that match a pattern; and whether each can be read from.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/search.h"

#include "catalog/pg_collation.h"
#include "regex/regex.h"
#include "utils/builtins.h"

static bool
search_has(const Search *search, const char *topic)
{
	for (int i = 0; i < search->n; i++)
		if (strcmp(search->topics[i].name, topic) == 0)
			return true;
	return false;
}

static void
search_add(void *arg, const char *topic, int partitions, int leaderless)
{
	Search	   *search = arg;
	FoundTopic *found;

	if (search_has(search, topic) || search->n == search->size ||
		strlen(topic) >= CONSUMER_TOPIC_LEN)
		return;
	found = &search->topics[search->n++];
	strlcpy(found->name, topic, CONSUMER_TOPIC_LEN);
	found->partitions = partitions;
	found->leaderless = leaderless;
}

static void
count_topic(void *arg, const char *topic, int partitions, int leaderless)
{
	(*(int *) arg)++;
}

/* Something could not be had; about a topic, unless that is NULL. */
static void
search_failed(InboxWorker *worker, Search *search, const char *topic)
{
	const char *error = consumer_error(worker->consumer);

	search->unreached = consumer_unreached(worker->consumer);
	if (topic)
		snprintf(search->error, CONSUMER_MESSAGE_LEN, "topic \"%s\": %s", topic,
				 error);
	else
		strlcpy(search->error, error, CONSUMER_MESSAGE_LEN);
}

/* Makes room for more topics. */
static void
search_reserve(Search *search, int more)
{
	search->size = search->n + more;
	search->topics = search->topics ?
		repalloc(search->topics, sizeof(FoundTopic) * search->size) :
		palloc(sizeof(FoundTopic) * search->size);
}

/* Does a topic match one of the subscription's patterns? */
static bool
matches_pattern(const Subscription *subscription, const char *topic)
{
	for (int i = 0; i < subscription->ntopics; i++)
		if (subscription->topics[i][0] == '^' &&
			RE_compile_and_execute(cstring_to_text(subscription->topics[i]),
								   unconstify(char *, topic), strlen(topic),
								   REG_ADVANCED, C_COLLATION_OID, 0, NULL))
			return true;
	return false;
}

/*
 * Adds the topics that match a pattern.  Those that begin with two underscores
 * are Kafka's own.
 */
static bool
search_patterns(InboxWorker *worker, Search *search)
{
	Search		all = {0};
	int			count = 0;

	if (!consumer_list_all_topics(worker->consumer, count_topic, &count,
								  KAFKA_TIMEOUT_MS))
		return false;
	search_reserve(&all, count + 100);
	if (!consumer_list_all_topics(worker->consumer, search_add, &all,
								  KAFKA_TIMEOUT_MS))
		return false;
	search_reserve(search, all.n + worker->subscription->ntopics);
	for (int i = 0; i < all.n; i++)
		if (strncmp(all.topics[i].name, "__", 2) != 0 &&
			matches_pattern(worker->subscription, all.topics[i].name))
			search_add(search, all.topics[i].name, all.topics[i].partitions,
					   all.topics[i].leaderless);
	return true;
}

/* Is a topic named in full? */
static bool
is_named(const Subscription *subscription, const char *topic)
{
	for (int i = 0; i < subscription->ntopics; i++)
		if (strcmp(subscription->topics[i], topic) == 0)
			return true;
	return false;
}

/*
 * Looks for topics that a pattern does not find any more.  Kafka hides those
 * that we may not see.
 */
static bool
check_hidden(InboxWorker *worker, Search *search)
{
	const char *asked = "";
	bool		complete = true;

	search_reserve(search, worker->npartitions);
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];
		const char *topic = partition->at.topic;

		if (partition->gone || search_has(search, topic) ||
			is_named(worker->subscription, topic))
			continue;
		if (strcmp(asked, topic) != 0 &&
			!consumer_list_topic(worker->consumer, topic, search_add, search,
								 KAFKA_TIMEOUT_MS) &&
			!consumer_topic_unknown(worker->consumer))
		{
			search_failed(worker, search, topic);
			complete = false;
		}
		asked = topic;
		partition->gone = consumer_topic_unknown(worker->consumer);
	}
	return complete;
}

/* Does each partition have a leader?  If not, the error tells of one. */
static bool
check_leaders(Search *search)
{
	for (int i = 0; i < search->n; i++)
	{
		const FoundTopic *topic = &search->topics[i];

		if (topic->leaderless < 0)
			continue;
		snprintf(search->error, CONSUMER_MESSAGE_LEN,
				 "partition %d of topic \"%s\" has no leader: its broker is away",
				 topic->leaderless, topic->name);
		search->unreached = false;
		return false;
	}
	return true;
}

/*
 * Asks Kafka for the subscription's topics.  Returns false when one of them
 * could not be had, or read from; the error tells which and why.
 */
bool
search_topics(InboxWorker *worker, Search *search)
{
	Subscription *subscription = worker->subscription;
	bool		complete = true;
	bool		patterns = false;

	search_reserve(search, subscription->ntopics);
	for (int i = 0; i < subscription->ntopics; i++)
	{
		const char *topic = subscription->topics[i];

		if (topic[0] == '^')
			patterns = true;
		else if (!consumer_list_topic(worker->consumer, topic, search_add,
									  search, KAFKA_TIMEOUT_MS))
		{
			search_failed(worker, search, topic);
			complete = false;
			worker_check(worker);
		}
	}
	if (patterns && !search_patterns(worker, search))
	{
		search_failed(worker, search, NULL);
		return false;
	}
	if (patterns)
		complete &= check_hidden(worker, search);
	return check_leaders(search) && complete;
}
