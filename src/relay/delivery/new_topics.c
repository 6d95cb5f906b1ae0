/*-------------------------------------------------------------------------
 *
 * new_topics.c
 *	  Events for topics that the producer does not know yet.
 *
 * A topic that Kafka creates when it is asked for is there a moment later, or,
 * when Kafka is busy, many seconds later.  So the first event of a topic is
 * kept, and what follows of the same topic; others go on.  Soon, when many
 * topics have come together or there is nothing else to do, brokers are asked
 * about all of them at once (topic_creation.c).  Nobody waits for that: it is
 * looked at between records and between events, and then what was kept for
 * these topics is sent, in order.  What is still not there is parked then.
 *
 * To the ledger what is kept is under way, so nothing passes it that follows
 * from the ledger.  Whoever waits until all that was sent is acknowledged has
 * it sent first, as does the commit of a Kafka transaction, which is open as
 * long as something is kept for it.  As others wait then, topics have only some
 * seconds left; then the rest is parked.  When the pipeline breaks, all is
 * forgotten with the rest of what is not acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/new_topics.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "event/event.h"
#include "event/topic_name.h"
#include "kafka/producer/producer.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/destination.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/sender.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/commit.h"
#include "relay/state/parked_topics.h"
#include "relay/state/relay.h"
#include "relay/state/set_aside.h"

/*
 * So many topics are asked for at once.  Kafka refuses to create more than
 * 10,000 partitions with one request.
 */
#define MAX_TOPICS 250

/* But fewer if Kafka is far, as the library asks once more about each. */
#define LEAST_TOPICS 8
#define ASKING_US 5000000

/*
 * How long topics are waited for in vain while others go on: less when some
 * have appeared, as those that were asked for together appear together.
 */
#define PATIENCE_MS 3000
#define PATIENCE_LEFT_MS 1000

/*
 * How long others may have to wait for topics that Kafka creates, in all and in
 * vain.  Where it is not known that Kafka does that, see destination_moment().
 */
#define MOST_BLOCKING_MS 5000
#define VAIN_BLOCKING_MS 2000

#define MAX_KEPT_BYTES (8 * 1024 * 1024)
#define MAX_KEPT_EVENTS 10000
#define MAX_KEPT_MS 50			/* before brokers are asked */

typedef struct KeptForTopic
{
	struct KeptForTopic *next;
	struct NewTopic *topic;
	uint64		number;			/* in the ledger */
	Commit		commit;
	Event	   *event;			/* a copy */
} KeptForTopic;

typedef enum NewTopicState
{
	NEW_WAITING,				/* nobody has asked for it yet */
	NEW_ASKED,
	NEW_SENDABLE				/* its events are sent, or parked, now */
} NewTopicState;

typedef struct NewTopic
{
	char		name[TOPIC_MAX_LEN + 1];	/* hash key */
	NewTopicState state;
} NewTopic;

/* In the order of numbers.  NULL when nothing is kept. */
static KeptForTopic *first = NULL;
static KeptForTopic *last = NULL;
static int	nkept = 0;
static TimestampTz kept_since = 0;	/* by monotonic_now(), since when a topic
									 * waits */

static HTAB *topics = NULL;		/* theirs, by name */
static int	nwaiting = 0;		/* of them, that nobody has asked for */
static MemoryContext kept_context = NULL;	/* of all that */

/* What has become of those that are asked for, if any are. */
static bool asking = false;
static CreationProgress progress;
static TimestampTz moved_at = 0;	/* since when there is nothing new of them */

/* Is it known that Kafka creates topics? */
static bool creates = false;

/* Is what was kept being sent now? */
static bool sending = false;

/*
 * Are events for topics that the producer does not know to be kept?  Not those
 * that were set aside before, of which one batch is sent at a time.
 */
bool
new_topics_wanted(void)
{
	return !sending && deadletter_resend() == RESEND_NONE;
}

/* Makes the empty set of topics. */
static void
begin_keeping(void)
{
	HASHCTL		ctl = {.keysize = TOPIC_MAX_LEN + 1,
	.entrysize = sizeof(NewTopic)};

	if (kept_context == NULL)
		kept_context = AllocSetContextCreate(TopMemoryContext,
											 "outbox events of new topics",
											 ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = kept_context;
	topics = hash_create("outbox new topics", MAX_TOPICS, &ctl,
						 HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	nwaiting = 0;
}

/* How many topics are to be asked for at once? */
static int
topics_at_once(const Relay *relay)
{
	int64		round_trip_us = producer_stats(relay->producer)->round_trip_us;

	if (round_trip_us <= ASKING_US / MAX_TOPICS)
		return MAX_TOPICS;
	return Max(ASKING_US / round_trip_us, LEAST_TOPICS);
}

/* The topic of that name, which events are kept for from now on. */
static NewTopic *
enter_topic(const char *name)
{
	bool		found;
	NewTopic   *topic = hash_search(topics, name, HASH_ENTER, &found);

	if (found)
		return topic;
	topic->state = NEW_WAITING;
	if (nwaiting++ == 0)
		kept_since = monotonic_now();
	return topic;
}

/*
 * Keeps an event, which has that number in the ledger, for a topic that the
 * producer does not know.  When that is too much, has all that is kept sent;
 * that may break the pipeline.
 */
void
new_topics_keep(Relay *relay, const char *topic, const Event *event,
				const Commit *commit, uint64 number)
{
	KeptForTopic *item;

	if (first == NULL)
		begin_keeping();
	item = MemoryContextAlloc(kept_context, sizeof(KeptForTopic));
	item->next = NULL;
	item->topic = enter_topic(topic);
	item->number = number;
	item->commit = *commit;
	item->event = event_copy(event, kept_context);
	if (first == NULL)
		first = item;
	else
		last->next = item;
	last = item;
	nkept++;
	if (nkept >= MAX_KEPT_EVENTS ||
		MemoryContextMemAllocated(kept_context, true) >= MAX_KEPT_BYTES)
		new_topics_flush(relay);
}

/*
 * Keeps an event if one of its topic is kept, and returns whether it is so.
 * Cheap as long as nothing is kept.
 */
bool
new_topics_keep_behind(Relay *relay, const Event *event, const Commit *commit,
					   uint64 number)
{
	char		topic[TOPIC_MAX_LEN + 1];

	if (first == NULL || sending || !topic_name_of(event, topic) ||
		hash_search(topics, topic, HASH_FIND, NULL) == NULL)
		return false;
	new_topics_keep(relay, topic, event, commit, number);
	return true;
}

/* All topics in one state are in another from now on. */
static void
change_state(NewTopicState from, NewTopicState to)
{
	HASH_SEQ_STATUS scan;
	NewTopic   *topic;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state != from)
			continue;
		topic->state = to;
		if (from == NEW_WAITING)
			nwaiting--;
		else if (to == NEW_WAITING)
			nwaiting++;
	}
}

/* Sends one of the events that were kept, which is not in the list any more. */
static void
send_one(Relay *relay, KeptForTopic *item, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	/* What was refused in front of it may have ended the transaction. */
	if (relay->exact && !relay->exact->open)
		exactly_once_event(relay, item->event, &item->commit);
	sender_send(relay, item->event, &item->commit, item->number);
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/* Sends the events of topics that are to be sent, in order. */
static void
send_events(Relay *relay)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox new topic",
												  ALLOCSET_DEFAULT_SIZES);
	KeptForTopic *before = NULL;
	KeptForTopic *item = first;

	while (item != NULL && !relay->broken)
	{
		KeptForTopic *next = item->next;

		if (item->topic->state != NEW_SENDABLE)
			before = item;
		else
		{
			if (before)
				before->next = next;
			else
				first = next;
			if (next == NULL)
				last = before;
			nkept--;
			send_one(relay, item, context);
			pfree(item->event);
			pfree(item);
		}
		item = next;
	}
	MemoryContextDelete(context);
}

/*
 * Sends what was kept for topics that are to be sent, whatever has become of
 * them.  May break the pipeline.
 */
static void
send_sendable(Relay *relay)
{
	HASH_SEQ_STATUS scan;
	NewTopic   *topic;

	sending = true;
	/* So that the producer can ask for all of them at once. */
	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->state == NEW_SENDABLE && !parked_topics_has_topic(topic->name))
			(void) producer_topic(relay->producer, topic->name);
	send_events(relay);
	sending = false;
	if (first == NULL)
	{
		new_topics_forget();
		return;
	}
	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->state == NEW_SENDABLE)
			hash_search(topics, topic->name, HASH_REMOVE, NULL);
}

/* Has brokers asked about topics that nobody has asked for. */
static void
begin_asking(Relay *relay)
{
	int			most = Min(nwaiting, topics_at_once(relay));
	char	  **names;
	int			n = 0;
	HASH_SEQ_STATUS scan;
	NewTopic   *topic;

	/* One alone needs no handle of its own. */
	if (nwaiting == 1)
	{
		change_state(NEW_WAITING, NEW_SENDABLE);
		send_sendable(relay);
		return;
	}
	names = MemoryContextAlloc(kept_context, sizeof(char *) * most);
	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->state != NEW_WAITING || n == most)
			continue;
		topic->state = NEW_ASKED;
		names[n++] = topic->name;
	}
	nwaiting -= n;
	progress.missing = -1;
	moved_at = monotonic_now();
	asking = producer_create_topics(relay->producer, relay->config, names, n);
	pfree(names);
	if (asking)
		return;
	change_state(NEW_ASKED, NEW_SENDABLE);
	send_sendable(relay);
}

/* Has anything become of what was asked for?  Then sends what was kept for it. */
static void
look(Relay *relay)
{
	bool		some = progress.made;
	CreationState state = producer_creation(relay->producer,
											some ? PATIENCE_LEFT_MS : PATIENCE_MS,
											&progress);

	if (progress.made && !some)
		creates = true;
	if (progress.moved)
		moved_at = monotonic_now();
	if (state == CREATION_OPEN)
		return;
	asking = false;
	if (state == CREATION_DONE && !progress.made && progress.missing > 0)
		creates = false;
	producer_end_creation(relay->producer);
	progress.made = false;
	/* Nobody answers that, nor the producer: all wait for that. */
	if (state == CREATION_FAILED && !relay->connected)
	{
		change_state(NEW_ASKED, NEW_WAITING);
		kept_since = monotonic_now();
		return;
	}
	change_state(NEW_ASKED, NEW_SENDABLE);
	send_sendable(relay);
}

/*
 * Between records and events: does what is due for topics that the producer
 * does not know.  Idle says that there is nothing else to do.  May break the
 * pipeline.
 */
void
new_topics_step(Relay *relay, bool idle)
{
	if (first == NULL || sending)
		return;
	if (asking)
		look(relay);
	else if (nwaiting > 0 &&
			 (idle || nwaiting >= topics_at_once(relay) ||
			  TimestampDifferenceExceeds(kept_since, monotonic_now(), MAX_KEPT_MS)))
		begin_asking(relay);
}

/*
 * How long to wait for more, given how long one would if nothing were kept.
 */
long
new_topics_wait_ms(long timeout_ms)
{
	return first ? Min(timeout_ms, CREATION_LOOK_MS) : timeout_ms;
}

/*
 * Have others waited long enough for the topics that are asked for?  Since when
 * they wait, and how long they may in vain, is given.
 */
static bool
is_enough(const Relay *relay, TimestampTz since, long vain_ms)
{
	TimestampTz now = monotonic_now();

	/* If nobody answers, there is nothing that others could do. */
	if (!relay->connected)
		return false;
	return TimestampDifferenceExceeds(since, now, MOST_BLOCKING_MS) ||
		(asking && progress.missing > 0 &&
		 TimestampDifferenceExceeds(Max(since, moved_at), now,
									creates ? VAIN_BLOCKING_MS : vain_ms));
}

/* Parks the topics that nobody has told of: to ask for each takes too long. */
static void
park_rest(void)
{
	HASH_SEQ_STATUS scan;
	NewTopic   *topic;

	hash_seq_init(&scan, topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		(void) parked_topics_add(topic->name, WHOLE_TOPIC, "UNKNOWN_TOPIC_OR_PART",
								 "Kafka has not created the topic in time");
}

/*
 * Sends all that is kept, while others wait: first for brokers to tell about the
 * topics.  May break the pipeline.  Does nothing when it is called meanwhile.
 */
void
new_topics_flush(Relay *relay)
{
	TimestampTz since = monotonic_now();
	long		vain_ms;

	if (first == NULL || sending)
		return;
	vain_ms = destination_moment(0);
	while (new_topics_step(relay, true), first != NULL && !relay->broken)
	{
		if (is_enough(relay, since, vain_ms))
		{
			(void) destination_moment(TimestampDifferenceMilliseconds(Max(since, moved_at),
																	  monotonic_now()));
			producer_end_creation(relay->producer);
			asking = progress.made = false;
			if (hash_get_num_entries(topics) > LEAST_TOPICS)
				park_rest();
			change_state(NEW_ASKED, NEW_SENDABLE);
			change_state(NEW_WAITING, NEW_SENDABLE);
			send_sendable(relay);
			return;
		}
		connection_check(relay);
		relay_show(relay);
		relay_wait(relay, CREATION_LOOK_MS);
		sender_poll(relay);
	}
}

/*
 * The pipeline is broken, or all is sent: forgets what was kept.  What is asked
 * for is the producer's, and ends with it.
 */
void
new_topics_forget(void)
{
	first = last = NULL;
	nkept = 0;
	nwaiting = 0;
	asking = progress.made = false;
	/* What is being sent may be one of them. */
	if (kept_context && !sending)
		MemoryContextReset(kept_context);
}
