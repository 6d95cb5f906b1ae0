/*-------------------------------------------------------------------------
 *
 * newtopics.c
 *	  Events for topics that the producer does not know yet.
 *
 * A topic that Kafka creates when it is asked for is there a moment later, in
 * which nothing else would get on.  So the first event of a topic is kept, and
 * what follows of the same topic; others go on.  Soon, when many topics have
 * come together or there is nothing else to do, brokers are asked about all of
 * them at once (creation.c), and what was kept is sent, in order.
 *
 * To the ledger what is kept is under way, so nothing passes it that follows
 * from the ledger.  Whoever waits until all that was sent is acknowledged has
 * it sent first, as does the commit of a Kafka transaction, which is open as
 * long as something is kept for it.  When the pipeline breaks, it is forgotten
 * with the rest of what is not acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/newtopics.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/steady.h"
#include "relay/connection.h"
#include "relay/deadletter.h"
#include "relay/destination.h"
#include "relay/exactly_once.h"
#include "relay/parked.h"

/*
 * So many topics are asked for at once.  Kafka refuses to create more than
 * 10,000 partitions with one request.
 */
#define MAX_TOPICS 250

/* But fewer if Kafka is far, as the library asks once more about each. */
#define LEAST_TOPICS 8
#define ASKING_US 5000000

/*
 * How long topics are waited for in vain, where Kafka is known to create them.
 * What it has just created keeps it busy for a while.
 */
#define MOST_PATIENCE_MS 5000
#define LEAST_PATIENCE_MS 1000

/* Where that is not known, longer than usual for each. */
#define EACH_MS 20

#define MAX_KEPT_BYTES (4 * 1024 * 1024)
#define MAX_KEPT_EVENTS 5000
#define MAX_KEPT_MS 50

typedef struct KeptForTopic
{
	struct KeptForTopic *next;
	uint64		number;			/* in the ledger */
	Commit		commit;
	Event		event;			/* what it points to is behind this */
} KeptForTopic;

/* In the order of numbers.  NULL when nothing is kept. */
static KeptForTopic *first = NULL;
static KeptForTopic *last = NULL;
static int	nkept = 0;
static TimestampTz kept_since = 0;	/* by steady_now() */

static HTAB *names = NULL;		/* of their topics */
static MemoryContext kept_context = NULL;	/* of all that */

/* How long to wait in vain, in ms; 0 if Kafka has never created topics. */
static long patience_ms = 0;

/* A topic that Kafka has not created in time, if it does at all; or "". */
static char missed[TOPIC_MAX_LEN + 1] = "";

/* Is it being sent now? */
static bool flushing = false;

/*
 * Are events for topics that the producer does not know to be kept?  Not those
 * that were set aside before, of which one batch is sent at a time.
 */
bool
newtopics_wanted(void)
{
	return !flushing && deadletter_resend() == RESEND_NONE;
}

/* Copies a slice to where there is room. */
static Slice
copy_slice(char **room, Slice slice)
{
	Slice		copy = SLICE_NULL;

	if (slice.data == NULL)
		return copy;
	copy.data = *room;
	copy.len = slice.len;
	memcpy(*room, slice.data, slice.len);
	*room += slice.len;
	return copy;
}

/* Copies an event, with all that it points to. */
static KeptForTopic *
copy_event(const Event *event)
{
	Size		headers_size = event->headers ? VARSIZE(event->headers) : 0;
	Size		size = MAXALIGN(sizeof(KeptForTopic)) + MAXALIGN(headers_size) +
	event->aggregate_type.len + event->aggregate_id.len +
	event->event_type.len + event->payload.len + event->content_type.len +
	event->topic.len + event->partition_key.len;
	KeptForTopic *item = MemoryContextAlloc(kept_context, size);
	char	   *room = (char *) item + MAXALIGN(sizeof(KeptForTopic));
	Event	   *copy = &item->event;

	*copy = *event;
	if (event->headers)
	{
		copy->headers = (Jsonb *) room;
		memcpy(room, event->headers, headers_size);
		room += MAXALIGN(headers_size);
	}
	copy->aggregate_type = copy_slice(&room, event->aggregate_type);
	copy->aggregate_id = copy_slice(&room, event->aggregate_id);
	copy->event_type = copy_slice(&room, event->event_type);
	copy->payload = copy_slice(&room, event->payload);
	copy->content_type = copy_slice(&room, event->content_type);
	copy->topic = copy_slice(&room, event->topic);
	copy->partition_key = copy_slice(&room, event->partition_key);
	return item;
}

/* Makes the empty set of names. */
static void
begin_keeping(void)
{
	HASHCTL		ctl = {.keysize = TOPIC_MAX_LEN + 1,
	.entrysize = TOPIC_MAX_LEN + 1};

	if (kept_context == NULL)
		kept_context = AllocSetContextCreate(TopMemoryContext,
											 "outbox events of new topics",
											 ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = kept_context;
	names = hash_create("outbox new topics", MAX_TOPICS, &ctl,
						HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	kept_since = steady_now();
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

/*
 * Keeps an event, which has that number in the ledger, for a topic that the
 * producer does not know.  When that is enough, has all that is kept sent; that
 * may break the pipeline.
 */
void
newtopics_keep(Relay *relay, const char *topic, const Event *event,
			   const Commit *commit, uint64 number)
{
	KeptForTopic *item;

	if (first == NULL)
		begin_keeping();
	(void) hash_search(names, topic, HASH_ENTER, NULL);
	item = copy_event(event);
	item->next = NULL;
	item->number = number;
	item->commit = *commit;
	if (first == NULL)
		first = item;
	else
		last->next = item;
	last = item;
	nkept++;
	if (nkept >= MAX_KEPT_EVENTS ||
		hash_get_num_entries(names) >= topics_at_once(relay) ||
		MemoryContextMemAllocated(kept_context, true) >= MAX_KEPT_BYTES)
		newtopics_flush(relay);
}

/*
 * Keeps an event if one of its topic is kept, and returns whether it is so.
 * Cheap as long as nothing is kept.
 */
bool
newtopics_keep_behind(Relay *relay, const Event *event, const Commit *commit,
					  uint64 number)
{
	char		topic[TOPIC_MAX_LEN + 1];

	if (first == NULL || flushing || !route_topic(event, topic) ||
		hash_search(names, topic, HASH_FIND, NULL) == NULL)
		return false;
	newtopics_keep(relay, topic, event, commit, number);
	return true;
}

/* Lists the names of the topics. */
static char **
list_names(int *n)
{
	HASH_SEQ_STATUS scan;
	char	  **list = MemoryContextAlloc(kept_context, sizeof(char *) *
										  hash_get_num_entries(names));
	char	   *name;

	*n = 0;
	hash_seq_init(&scan, names);
	while ((name = hash_seq_search(&scan)) != NULL)
		list[(*n)++] = name;
	return list;
}

/* Waits, while what is in flight goes on; false when that broke. */
static bool
wait_a_little(Relay *relay, long ms)
{
	connection_check(relay);
	relay_show(relay);
	relay_wait(relay, ms);
	sender_poll(relay);
	return !relay->broken;
}

/*
 * How long, in ms, to wait in vain for so many topics?  Longer than usual if it
 * is known that Kafka creates topics.  If not, others must not wait long for
 * what does not exist.
 */
static long
patience(int n)
{
	long		moment = destination_moment(0);

	if (patience_ms > 0)
		return patience_ms;
	return moment > 0 ? moment + n * EACH_MS : 0;
}

/* Learns from what came of a creation. */
static void
learn(const CreationTimes *times)
{
	if (times->made > 0 && (times->vain == 0 || patience_ms == 0))
		patience_ms = MOST_PATIENCE_MS;
	else if (patience_ms > 0 && times->vain > 0)
		patience_ms = Max(patience_ms / 2, LEAST_PATIENCE_MS);
	else
		(void) destination_moment(times->vain);
}

/* Has Kafka created a topic after all that was not there in time? */
static void
look_for_missed(Relay *relay)
{
	ProducerTopic *topic;

	if (patience_ms > 0 || missed[0] == '\0')
		return;
	topic = producer_topic(relay->producer, missed);
	if (topic && producer_topic_status(relay->producer, topic) == TOPIC_READY)
		patience_ms = MOST_PATIENCE_MS;
}

/* Keeps a topic in mind that was not there in time. */
static void
note_missed(void)
{
	HASH_SEQ_STATUS scan;
	char	   *name;

	if (patience_ms > 0)
		return;
	hash_seq_init(&scan, names);
	while ((name = hash_seq_search(&scan)) != NULL)
		if (parked_find(name, WHOLE_TOPIC) != NULL)
			strlcpy(missed, name, sizeof(missed));
}

/* Has brokers asked about the topics; returns what came of it. */
static CreationState
create(Relay *relay, char **list, int n)
{
	CreationTimes times = {0};
	CreationState state = CREATION_FAILED;

	if (producer_create_topics(relay->producer, relay->config, list, n))
		state = CREATION_OPEN;
	while (state == CREATION_OPEN)
	{
		/* If that breaks the pipeline, the producer is another one. */
		if (!wait_a_little(relay, CREATION_LOOK_MS))
			return CREATION_FAILED;
		state = producer_creation(relay->producer, patience(n), &times);
	}
	producer_end_creation(relay->producer);
	learn(&times);
	return state;
}

/*
 * Has the topics created that do not exist, where brokers do that, and makes
 * all of them known to the producer.  If no broker answers, waits for that,
 * for ever; but not if one answers the producer alone.
 */
static void
prepare_topics(Relay *relay)
{
	int			n;
	char	  **list = list_names(&n);

	if (n == 1)
		return;
	look_for_missed(relay);
	while (create(relay, list, n) == CREATION_FAILED && !relay->broken &&
		   !relay->connected)
		while (!relay->connected)
			if (!wait_a_little(relay, 1000))
				return;
	for (int i = 0; i < n && !relay->broken; i++)
		(void) producer_topic(relay->producer, list[i]);
}

/* Sends the first of the events that are kept. */
static void
send_first(Relay *relay, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	KeptForTopic *item = first;

	first = item->next;
	/* What was refused in front of it may have ended the transaction. */
	if (relay->exact && !relay->exact->open)
		exactly_once_event(relay, &item->event, &item->commit);
	sender_send(relay, &item->event, &item->commit, item->number);
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * Sends what is kept, once brokers have told about its topics.  May break the
 * pipeline.  Does nothing when it is called meanwhile.
 */
void
newtopics_flush(Relay *relay)
{
	MemoryContext context;

	if (first == NULL || flushing)
		return;
	flushing = true;
	context = AllocSetContextCreate(CurrentMemoryContext, "outbox new topic",
									ALLOCSET_DEFAULT_SIZES);
	prepare_topics(relay);
	while (first != NULL && !relay->broken)
		send_first(relay, context);
	MemoryContextDelete(context);
	note_missed();
	flushing = false;
	newtopics_forget();
}

/*
 * Between records: sends what is kept, if it was for long enough.  Idle says
 * that there is nothing else to do.
 */
void
newtopics_step(Relay *relay, bool idle)
{
	if (first != NULL &&
		(idle || TimestampDifferenceExceeds(kept_since, steady_now(), MAX_KEPT_MS)))
		newtopics_flush(relay);
}

/*
 * The pipeline is broken, or all is sent: forgets what was kept.
 */
void
newtopics_forget(void)
{
	first = last = NULL;
	nkept = 0;
	/* What is being sent may be one of them. */
	if (kept_context && !flushing)
		MemoryContextReset(kept_context);
}
