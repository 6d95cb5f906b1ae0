/*-------------------------------------------------------------------------
 *
 * careful.c
 *	  Events that are sent one at a time, because something is refused.
 *
 * When the broker refuses a batch, one event of it may be the culprit and the
 * others mere neighbours.  Sent alone, each shows what it is: the neighbours
 * are delivered, in order, and the culprit becomes a dead letter.  What is not
 * an event's fault is waited for: a broker that is away, for ever, and a topic
 * or partition that cannot be written, for a moment; then it is parked.
 *
 * Each time the pipeline breaks, much has to be sent again.  So what was
 * refused once makes us suspicious: other events of a topic that refused one
 * for its size are sent alone if they are as large, and all of them if the
 * topic refuses whatever we send.  Such a topic is asked once a second, by one
 * event; those in between become dead letters unasked, so that a million events
 * for it do not hold up everything else.
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
#include "relay/destination.h"
#include "relay/ending.h"
#include "relay/exactly_once.h"
#include "relay/parked.h"
#include "relay/route.h"

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
	destination_note_failure(relay, result == SEND_TOO_LARGE ? DELIVERY_TOO_LARGE : DELIVERY_RETRY,
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

/* What has become of an event that was sent alone. */
typedef enum Outcome
{
	OUTCOME_DELIVERED,
	OUTCOME_PARKED,				/* its topic cannot be written now */
	OUTCOME_REFUSED				/* for good */
} Outcome;

/*
 * Something is wrong in a Kafka transaction: the library says of the message
 * only that it was purged.  Finds out whether its topic is forbidden.
 */
static void
look_behind_purge(Relay *relay)
{
	const char *failure;
	bool		forbidden;

	if (!relay->exact || relay->failure != DELIVERY_PURGED)
		return;
	failure = transaction_failure(relay->producer, &forbidden);
	if (failure && forbidden)
		destination_note_failure(relay, DELIVERY_TOPIC_FORBIDDEN,
								 "TOPIC_AUTHORIZATION_FAILED", failure);
}

/*
 * Sends the event, again and again as long as the fault is neither its own nor
 * its topic's.  Nothing else is in flight.
 */
static Outcome
send_patiently(Relay *relay, const Event *event, const Commit *commit,
			   uint64 number, Destination *destination)
{
	Message		message = {0};
	int			delay = FIRST_BACKOFF_MS;

	for (;;)
	{
		DestinationState state;

		reached_broker = false;
		state = destination_wait(relay, event, false, destination);
		if (state != DESTINATION_READY)
			return state == DESTINATION_PARKED ? OUTCOME_PARKED : OUTCOME_REFUSED;
		encode_message(&relay->encoder, event, commit->time, &message);
		message.topic = destination->topic;
		message.opaque = number;
		if (relay->exact)
			exactly_once_expect_refusal(relay);
		if (try_alone(relay, &message))
			return OUTCOME_DELIVERED;
		look_behind_purge(relay);
		relay->delivery_failed = false;
		if (relay->failure == DELIVERY_TOPIC_FORBIDDEN)
		{
			destination->partition = WHOLE_TOPIC;
			return OUTCOME_PARKED;
		}
		if (is_for_good(relay->failure))
			return OUTCOME_REFUSED;
		if (relay->exact && relay->stuck)
			exactly_once_start_over(relay);
		if (relay->stuck)
		{
			/* The library has it still; another one knows nothing of it. */
			sender_replace(relay);
			continue;
		}
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
	destination_note_failure(relay, DELIVERY_TOPIC_REFUSED, suspect->error_name,
							 suspect->error_text);
	return true;
}

/*
 * The event is refused for good, or its topic cannot be written: it was set
 * aside.  Goes on behind it.
 */
static void
go_on(Relay *relay)
{
	/* A Kafka transaction cannot go on: the next leaves the event out. */
	if (relay->exact && reached_broker && !exactly_once_drop(relay))
	{
		relay->careful += ledger_position(relay->ledger).outstanding;
		ending_restart();
	}
	/* Nothing is in flight, and nothing is wrong but with the event. */
	if (producer_is_fatal(relay->producer))
		sender_replace(relay);
}

/*
 * Sends one event, which has that number in the ledger, and holds everything
 * else until it is acknowledged or set aside.
 */
void
careful_send(Relay *relay, const Event *event, const Commit *commit,
			 uint64 number)
{
	Destination destination;

	/* Nothing of such a topic is in flight, so order needs no wait. */
	if (was_refused_lately(relay, event))
	{
		give_up(relay, event, number);
		return;
	}
	sender_drain(relay);
	if (relay->broken)
		return;
	switch (send_patiently(relay, event, commit, number, &destination))
	{
		case OUTCOME_DELIVERED:
			clear_suspicion(event);
			break;
		case OUTCOME_PARKED:
			deadletter_park(relay, event, number, &destination);
			go_on(relay);
			break;
		case OUTCOME_REFUSED:
			if (relay->failure == DELIVERY_REFUSED)
				relay->careful = Max(relay->careful, AFTERCARE);
			else
				suspect_topic(relay, event);
			give_up(relay, event, number);
			go_on(relay);
			break;
	}
	if (relay->held)
	{
		relay->held = false;
		relay_work(relay);
	}
}
