/*-------------------------------------------------------------------------
 *
 * careful.c
 *	  Events that are sent one at a time, because something is refused.
 *
 * When the broker refuses a batch, one event of it may be the culprit and the
 * others mere neighbours.  Sent alone, each shows what it is: the neighbours
 * are delivered, in order, and the culprit becomes a dead letter, if the fault
 * is its own or its topic's.  What is not an event's fault - a broker that is
 * away, a topic that does not exist - is waited for, for ever.
 *
 * Each time the pipeline breaks, much has to be sent again.  So what was
 * refused once makes us suspicious: other events of a topic that refused one
 * for its size are sent alone if they are as large, and all of them if the
 * topic refuses whatever we send.  Such a topic is asked once a second, by one
 * event; those in between become dead letters unasked, so that a missing right
 * and a million events do not hold up everything else.
 *
 * Where events wait behind a refused one, the first that goes to a partition
 * is sent alone too: until that is acknowledged, the next could pass it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/careful.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "base/steady.h"
#include "relay/deadletter.h"
#include "relay/ending.h"
#include "relay/exactly_once.h"
#include "relay/route.h"

#define METADATA_TIMEOUT_MS 100
#define NEW_TOPIC_MS 400		/* a broker may take to create a topic */
#define ASK_AGAIN_MS 1000		/* a topic that refuses everything */
#define LOG_INTERVAL_MS 1000	/* between two messages about dead letters */
#define AFTERCARE 100			/* events sent alone after a refused one */

/* A topic that has refused something. */
typedef struct SuspectTopic
{
	char		name[TOPIC_MAX_LEN + 1];	/* hash key */
	int			size;			/* events as large as this are suspect, in
								 * bytes of key and payload; 0: all */
	TimestampTz refused_at;
	const char *error_name;		/* librdkafka's, never freed */
	char		error_text[PRODUCER_ERROR_LEN];
} SuspectTopic;

/* Suspect topics by name; NULL until there has been one. */
static HTAB *suspects = NULL;

/* Did a broker see the last event that was refused? */
static bool reached_broker = false;

static int
event_size(const Event *event)
{
	return event->payload.len + event_key(event).len;
}

/* The suspect topic that the event goes to; NULL when it is none. */
static SuspectTopic *
find_suspect(const Event *event)
{
	char		name[TOPIC_MAX_LEN + 1];

	if (suspects == NULL || hash_get_num_entries(suspects) == 0 ||
		!route_topic(event, name))
		return NULL;
	return hash_search(suspects, name, HASH_FIND, NULL);
}

/*
 * Shall an event be sent alone, because of what its topic refused before?
 * Cheap as long as nothing was refused.
 */
bool
careful_wanted(const Relay *relay, const Event *event)
{
	SuspectTopic *suspect = find_suspect(event);

	return suspect != NULL && event_size(event) >= suspect->size;
}

/* The broker has taken the event: its topic is not what we thought. */
static void
clear_suspicion(const Event *event)
{
	SuspectTopic *suspect = find_suspect(event);

	if (suspect != NULL && event_size(event) >= suspect->size)
		hash_search(suspects, suspect->name, HASH_REMOVE, NULL);
}

/* Keeps in mind what the event's topic has just refused. */
static void
suspect_topic(const Relay *relay, const Event *event)
{
	HASHCTL		ctl = {.keysize = TOPIC_MAX_LEN + 1,
		.entrysize = sizeof(SuspectTopic),
	.hcxt = TopMemoryContext};
	char		name[TOPIC_MAX_LEN + 1];
	SuspectTopic *suspect;
	bool		found;
	int			size = relay->failure == DELIVERY_TOO_LARGE ? event_size(event) : 0;

	if (!route_topic(event, name))
		return;
	if (suspects == NULL)
		suspects = hash_create("outbox suspect topics", 16, &ctl,
							   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	suspect = hash_search(suspects, name, HASH_ENTER, &found);
	suspect->size = found ? Min(suspect->size, size) : size;
	suspect->refused_at = steady_now();
	suspect->error_name = relay->failure_name;
	strlcpy(suspect->error_text, relay->failure_text,
			sizeof(suspect->error_text));
}

/* Something is in the way of the event that is its own or its topic's. */
static void
note_failure(Relay *relay, DeliveryResult failure, const char *name,
			 const char *message)
{
	relay->failure = failure;
	relay->failure_name = name;
	strlcpy(relay->failure_text, message, sizeof(relay->failure_text));
}

/*
 * Asks for the event's topic.  Whatever the answer, *topic may be NULL; unless
 * it is TOPIC_READY, what is wrong is noted.
 */
static TopicStatus
ask_topic(Relay *relay, const Event *event, ProducerTopic **topic)
{
	char		name[TOPIC_MAX_LEN + 1];
	TopicStatus status = TOPIC_REFUSED;

	*topic = NULL;
	if (!route_topic(event, name))
	{
		note_failure(relay, DELIVERY_TOPIC_REFUSED, "TOPIC_EXCEPTION",
					 "the name of the topic is too long");
		return TOPIC_REFUSED;
	}
	*topic = producer_topic(relay->producer, name);
	if (*topic)
		status = producer_topic_status(relay->producer, *topic,
									   METADATA_TIMEOUT_MS);
	/* The failure that broke the pipeline says more. */
	if (relay->delivery_failed)
		return status;
	if (status == TOPIC_REFUSED)
		note_failure(relay, DELIVERY_TOPIC_REFUSED,
					 producer_error_name(relay->producer),
					 producer_error(relay->producer));
	else if (status == TOPIC_UNKNOWN)
		snprintf(relay->failure_text, sizeof(relay->failure_text),
				 "topic \"%s\" does not exist and Kafka does not create it", name);
	else if (status == TOPIC_UNREACHABLE)
		strlcpy(relay->failure_text, sender_connection_error(relay),
				sizeof(relay->failure_text));
	return status;
}

/*
 * The event's topic, if it can take messages at once, else NULL: then the
 * event is to be sent alone, since what is in flight must not wait for it.
 */
ProducerTopic *
careful_topic(Relay *relay, const Event *event)
{
	ProducerTopic *topic;

	/* What was known before says nothing about the connection. */
	return ask_topic(relay, event, &topic) == TOPIC_READY ? topic : NULL;
}

/*
 * Shall an event be sent alone, because nothing may pass it if it is refused,
 * and something could?  A Kafka transaction would be aborted with all of it.
 */
bool
careful_start(const Relay *relay, const Event *event,
			  const ProducerTopic *topic)
{
	return outbox_on_poison == POISON_HOLD && !relay->exact &&
		!producer_is_known(relay->producer, topic, event_key(event));
}

/*
 * Waits until the event's topic can take messages; returns it.  Returns NULL
 * when it never will; the failure is noted then.
 */
static ProducerTopic *
wait_for_topic(Relay *relay, const Event *event)
{
	ProducerTopic *topic;
	TopicStatus status;
	int			delay = FIRST_BACKOFF_MS;

	while ((status = ask_topic(relay, event, &topic)) != TOPIC_READY)
	{
		if (status == TOPIC_REFUSED)
			return NULL;
		if (delay > (status == TOPIC_UNKNOWN ? NEW_TOPIC_MS : FIRST_BACKOFF_MS))
			relay_obstacle(relay, RELAY_WAITING_KAFKA, relay->failure_text);
		sender_back_off(relay, &delay);
	}
	if (delay > FIRST_BACKOFF_MS)
	{
		/* A broker was asked, since the topic was not ready before. */
		relay->connected = true;
		relay_work(relay);
	}
	return topic;
}

/* Sends one message and waits for its delivery; true when acknowledged. */
static bool
try_alone(Relay *relay, const Message *message)
{
	SendResult	result;

	relay->delivery_failed = false;
	result = sender_leave_message(relay, message);
	reached_broker = result == SEND_QUEUED;
	if (reached_broker)
	{
		sender_await_deliveries(relay);
		return !relay->delivery_failed;
	}
	relay->delivery_failed = true;
	note_failure(relay, result == SEND_TOO_LARGE ? DELIVERY_TOO_LARGE : DELIVERY_RETRY,
				 producer_error_name(relay->producer),
				 producer_error(relay->producer));
	return false;
}

/* Is what went wrong for good? */
static bool
is_for_good(DeliveryResult failure)
{
	return failure == DELIVERY_REFUSED || failure == DELIVERY_TOO_LARGE ||
		failure == DELIVERY_TOPIC_REFUSED;
}

/*
 * Sends the event, again and again as long as the fault is not its own.
 * Nothing else is in flight.  Returns false when it is refused for good.
 */
static bool
send_patiently(Relay *relay, const Event *event, const Commit *commit,
			   uint64 number)
{
	Message		message = {0};
	int			delay = FIRST_BACKOFF_MS;

	for (;;)
	{
		reached_broker = false;
		message.topic = wait_for_topic(relay, event);
		if (message.topic == NULL)
			return false;
		encode_message(&relay->encoder, event, commit->time, &message);
		message.opaque = number;
		if (try_alone(relay, &message))
			return true;
		relay->delivery_failed = false;
		if (is_for_good(relay->failure))
			return false;
		relay_obstacle(relay, RELAY_WAITING_KAFKA, relay->failure_text);
		relay->held = true;
		if (relay->exact)
		{
			sender_back_off(relay, &delay);
			exactly_once_start_over(relay);
		}
		if (producer_is_fatal(relay->producer))
			sender_reopen(relay);
		else
			sender_back_off(relay, &delay);
	}
}

/* Shows and logs the newest dead letter, but not too many of them. */
static void
report_dead_letter(Relay *relay, const Event *event)
{
	static TimestampTz logged_at = 0;
	TimestampTz now = steady_now();
	char		id[UUID_TEXT_LEN + 1];

	uuid_to_text(&event->event_id, id);
	snprintf(relay->status.error, RELAY_ERROR_LEN,
			 "event %s became a dead letter: %s", id, relay->failure_text);
	relay->status.error_at = GetCurrentTimestamp();
	if (!TimestampDifferenceExceeds(logged_at, now, LOG_INTERVAL_MS))
		return;
	logged_at = now;
	ereport(LOG,
			(errmsg("outbox event %s became a dead letter", id),
			 errdetail("Kafka refuses it for good: %s.", relay->failure_text),
			 errhint("See outbox.dead_letter; call outbox.retry() when the cause is removed, or outbox.discard().")));
}

/*
 * The event is refused for good, for the failure that is noted.  Makes it a
 * dead letter.
 */
static void
give_up(Relay *relay, const Event *event, uint64 number)
{
	report_dead_letter(relay, event);
	deadletter_add(relay, event, number, relay->failure_name,
				   relay->failure_text);
}

/*
 * Is the event's topic one that has refused everything lately?  Then there is
 * no need to ask it again; notes the failure.
 */
static bool
was_refused_lately(Relay *relay, const Event *event)
{
	SuspectTopic *suspect = find_suspect(event);

	if (suspect == NULL || suspect->size > 0 ||
		TimestampDifferenceExceeds(suspect->refused_at, steady_now(),
								   ASK_AGAIN_MS))
		return false;
	note_failure(relay, DELIVERY_TOPIC_REFUSED, suspect->error_name,
				 suspect->error_text);
	return true;
}

/*
 * Sends one event, which has that number in the ledger, and holds everything
 * else until it is acknowledged or a dead letter.
 */
void
careful_send(Relay *relay, const Event *event, const Commit *commit,
			 uint64 number)
{
	/* Nothing of such a topic is in flight, so order needs no wait. */
	if (was_refused_lately(relay, event))
	{
		give_up(relay, event, number);
		return;
	}
	sender_drain(relay);
	if (relay->broken)
		return;
	if (send_patiently(relay, event, commit, number))
		clear_suspicion(event);
	else
	{
		if (relay->failure == DELIVERY_REFUSED)
			relay->careful = Max(relay->careful, AFTERCARE);
		else
			suspect_topic(relay, event);
		give_up(relay, event, number);

		/* A Kafka transaction cannot go on: the next leaves the event out. */
		if (relay->exact && reached_broker)
		{
			relay->careful += ledger_position(relay->ledger).outstanding;
			ending_restart();
		}
		/* Nothing is in flight, and nothing is wrong but with the event. */
		if (producer_is_fatal(relay->producer))
			sender_replace(relay);
	}
	if (relay->held)
	{
		relay->held = false;
		relay_work(relay);
	}
}
