/*-------------------------------------------------------------------------
 *
 * destination.c
 *	  Where an event goes, and whether it can go there now.
 *
 * Before the first event of a topic, and when something has gone wrong, a
 * broker is asked for the topic.  While the answer is on its way, what is in
 * flight goes on.  A broker that cannot be reached is waited for, for ever.  A
 * topic that does not exist, or a partition without a leader, is waited for
 * only for a moment, in which brokers create topics and elect leaders; then it
 * is parked.  So is a topic that we have no right to.
 *
 * A leader may also be lost while messages are in flight.  They stay in the
 * library's queue, which they may fill.  When nothing moves for a while, the
 * brokers are asked which partitions have a leader, those without are parked,
 * and what is in flight is sent again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/destination.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "event/event.h"
#include "event/topic_name.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "registry/relay_values.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/new_topics.h"
#include "relay/delivery/sender.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/ledger.h"
#include "relay/state/parked_topics.h"
#include "relay/state/relay.h"

#define MOMENT_MS 1000			/* in which topics and leaders are made */
#define MOMENT_SHARE 10			/* of all time, that is spent on it */
#define SHOW_MS 400				/* that a wait may last unseen */
#define ANSWER_MS 2000			/* that an answer may take, after errors */
#define LOOK_MS 200				/* between two questions */
#define STUCK_MS 3000			/* nothing moves */
#define SILENT_MS 30000			/* though there is a leader */

/*
 * Something is in the way of an event that is its own or its topic's.  The name
 * of the error must last.
 */
void
destination_note_failure(Relay *relay, DeliveryResult failure, const char *name,
						 const char *message)
{
	relay->failure = failure;
	relay->failure_name = name;
	strlcpy(relay->failure_text, message, sizeof(relay->failure_text));
}

/* The topic does not exist: says so. */
static void
note_unknown(Relay *relay, const char *name)
{
	char		message[PRODUCER_ERROR_LEN];

	snprintf(message, sizeof(message),
			 "topic \"%s\" does not exist and Kafka does not create it%s", name,
			 strpbrk(name, "._") ?
			 "; topics whose names differ only in \".\" and \"_\" exclude each other" : "");
	destination_note_failure(relay, DELIVERY_RETRY, "UNKNOWN_TOPIC_OR_PART", message);
}

/* Is the partition that the event goes to without a leader?  Notes that. */
static bool
is_leaderless(Relay *relay, const Destination *destination, int ms)
{
	char		message[PRODUCER_ERROR_LEN];

	if (!producer_is_leaderless(destination->topic, destination->partition, ms))
		return false;
	if (destination->partition < 0)
		snprintf(message, sizeof(message), "no partition of topic \"%s\" has a leader",
				 destination->name);
	else
		snprintf(message, sizeof(message), "partition %d of topic \"%s\" has no leader",
				 destination->partition, destination->name);
	destination_note_failure(relay, DELIVERY_RETRY, "LEADER_NOT_AVAILABLE", message);
	return true;
}

/* Asks for the topic; unless it is ready, what is wrong is noted. */
static TopicStatus
ask(Relay *relay, Destination *destination)
{
	TopicStatus status = TOPIC_REFUSED;

	destination->partition = WHOLE_TOPIC;
	destination->topic = producer_topic(relay->producer, destination->name);
	if (destination->topic)
		status = producer_topic_status(relay->producer, destination->topic);
	switch (status)
	{
		case TOPIC_READY:
		case TOPIC_ASKED:
			break;
		case TOPIC_UNKNOWN:
			note_unknown(relay, destination->name);
			break;
		case TOPIC_UNREACHABLE:
			destination_note_failure(relay, DELIVERY_RETRY, "", connection_error(relay));
			break;
		case TOPIC_FORBIDDEN:
		case TOPIC_REFUSED:
			destination_note_failure(relay, status == TOPIC_REFUSED ?
									 DELIVERY_TOPIC_REFUSED : DELIVERY_TOPIC_FORBIDDEN,
									 producer_error_name(relay->producer),
									 producer_error(relay->producer));
			break;
	}
	return status;
}

/*
 * The topic is ready.  Is the event's partition?  Cheap as long as nothing is
 * wrong with any.
 */
static bool
partition_is_ready(Relay *relay, const Event *event, Destination *destination,
				   bool *parked)
{
	Parked	   *entry;

	*parked = false;
	if (!parked_topics_any() && !producer_lacks_leader(destination->topic))
		return true;
	entry = parked_topics_find(destination->name, WHOLE_TOPIC);
	if (entry == NULL || entry == relay->releasing)
	{
		destination->partition = producer_partition(relay->producer,
													destination->topic,
													event_key(event));
		if (destination->partition >= 0)
			entry = parked_topics_find(destination->name, destination->partition);
	}
	if (entry && entry != relay->releasing)
	{
		destination_note_failure(relay, DELIVERY_RETRY, entry->error_name, entry->error);
		*parked = true;
		return false;
	}
	if (!is_leaderless(relay, destination, 0))
		return true;
	producer_recheck(relay->producer, destination->topic);
	return false;
}

/* Waits a little, while what is in flight goes on.  False when that broke. */
static bool
wait_a_little(Relay *relay, bool pipelined, TopicStatus status)
{
	relay_wait(relay, status == TOPIC_ASKED ? 1000 : LOOK_MS);
	relay_show(relay);
	if (!pipelined)
	{
		sender_serve(relay);
		return true;
	}
	sender_poll(relay);
	return !relay->broken;
}

/*
 * Shows that no broker answers, when that is known, or when there were errors
 * and the answer takes its time.
 */
static void
show_obstacle(Relay *relay, TopicStatus status, TimestampTz since,
			  TimestampTz now)
{
	if (status == TOPIC_UNREACHABLE &&
		TimestampDifferenceExceeds(since, now, SHOW_MS))
		relay_obstacle(relay, RELAY_WAITING_KAFKA, relay->failure_text);
	else if (status == TOPIC_ASKED &&
			 producer_stats(relay->producer)->nerrors > relay->errors_past &&
			 TimestampDifferenceExceeds(since, now, ANSWER_MS))
		relay_obstacle(relay, RELAY_WAITING_KAFKA, connection_error(relay));
}

/*
 * What is in flight for a partition, or a topic, does not move: parks it, and
 * has the pipeline broken.  Not if it was parked before the producer was
 * opened, by whichever relay: then nothing in flight is for it.
 */
static void
park_in_flight(Relay *relay, const char *topic, int partition,
			   const char *error_name)
{
	Parked	   *parked = parked_topics_find(topic, WHOLE_TOPIC);

	/* One that relays need themselves cannot be done without. */
	if (relay->exact && strcmp(topic, relay->exact->topic) == 0)
		return;
	if (parked == NULL)
		parked = parked_topics_find(topic, partition);
	if (parked && parked != relay->releasing &&
		parked->parked_at < relay->opened_at)
		return;
	if (parked == NULL)
		parked = parked_topics_add(topic, partition, error_name, relay->failure_text);
	if (parked == relay->releasing)
	{
		parked_topics_fail(parked, error_name, relay->failure_text);
		relay->releasing = NULL;
	}
	relay->failure = DELIVERY_RETRY;
	relay->failure_name = error_name;
	relay->stuck = true;
}

/* A partition that has no leader. */
static void
park_leaderless(void *arg, const char *topic, int partition)
{
	Relay	   *relay = arg;

	snprintf(relay->failure_text, sizeof(relay->failure_text),
			 "partition %d of topic \"%s\" has no leader", partition, topic);
	park_in_flight(relay, topic, partition, "LEADER_NOT_AVAILABLE");
}

/*
 * What is parked after a wait: the event's partition has no leader, or its
 * topic is not there.  Others in flight may have the same in their way, and the
 * ledger would stand still while more and more is acknowledged behind them,
 * only to be sent again.  So that is done now, once for all partitions that
 * have lost their leaders.  Returns false when that breaks the pipeline.
 */
static bool
leave_behind(Relay *relay, const Destination *destination)
{
	char		error[PRODUCER_ERROR_LEN];
	const char *error_name = relay->failure_name;

	if (!producer_is_busy(destination->topic, destination->partition))
		return true;
	strlcpy(error, relay->failure_text, sizeof(error));
	producer_each_leaderless(relay->producer, 0, park_leaderless, relay);
	strlcpy(relay->failure_text, error, sizeof(relay->failure_text));
	park_in_flight(relay, destination->name, destination->partition, error_name);
	relay->delivery_failed |= relay->stuck;
	sender_poll(relay);
	return !relay->broken;
}

/*
 * How long, in ms, may be waited for a topic that is missing?  Others wait
 * meanwhile, so however many are missing they get no more than a share of the
 * time.  "Spent" is what has just been waited in vain.
 */
long
destination_moment(long spent)
{
	static TimestampTz counted_at = 0;
	static long left = MOMENT_MS;
	TimestampTz now = monotonic_now();
	long		earned = TimestampDifferenceMilliseconds(counted_at, now) / MOMENT_SHARE;

	if (earned > 0)
		counted_at = now;
	left = Min(left + earned, MOMENT_MS) - spent;
	return left < LOOK_MS ? 0 : left;
}

/*
 * The same for the event's topic.  Brokers come and go, so one that was ready
 * is looked at once more in any case.
 */
static long
patience(const Destination *destination)
{
	long		left = destination_moment(0);

	return destination->topic && producer_was_ready(destination->topic) ?
		Max(left, LOOK_MS) : left;
}

/*
 * Does what destination_wait() says; sets since when the topic or its partition
 * was missing, 0 if it was not.
 */
static DestinationState
await_destination(Relay *relay, const Event *event, bool pipelined,
				  Destination *destination, TimestampTz *missing_since)
{
	TimestampTz since = 0;
	long		patience_ms = 0;

	*missing_since = 0;
	for (;;)
	{
		TopicStatus status = ask(relay, destination);
		TimestampTz now;
		bool		parked = false;

		if (status == TOPIC_READY &&
			partition_is_ready(relay, event, destination, &parked))
			break;
		if (status == TOPIC_REFUSED)
			return DESTINATION_REFUSED;
		if (status == TOPIC_FORBIDDEN || parked)
			return DESTINATION_PARKED;

		now = monotonic_now();
		if (since == 0)
			since = now;
		if (status == TOPIC_UNREACHABLE)
			*missing_since = 0;
		else if (status != TOPIC_ASKED && *missing_since == 0)
		{
			*missing_since = now;
			patience_ms = patience(destination);
		}
		if (status != TOPIC_ASKED && *missing_since != 0 &&
			TimestampDifferenceExceeds(*missing_since, now, patience_ms))
			return !pipelined || leave_behind(relay, destination) ?
				DESTINATION_PARKED : DESTINATION_BROKEN;
		show_obstacle(relay, status, since, now);
		if (!wait_a_little(relay, pipelined, status))
			return DESTINATION_BROKEN;
	}
	if (since != 0)
	{
		/* A broker was asked, since the topic was not ready before. */
		relay->connected = true;
		relay_work(relay);
	}
	return DESTINATION_READY;
}

/*
 * Waits until the event's topic and partition can take messages, or it is clear
 * that they cannot for some time, or ever; then the reason is noted.
 * Pipelined: with others in flight.  Then does not wait for a topic that the
 * producer does not know, if new_topics.c is to do that.
 */
DestinationState
destination_wait(Relay *relay, const Event *event, bool pipelined,
				 Destination *destination)
{
	TimestampTz missing_since;
	DestinationState state;

	if (!topic_name_of(event, destination->name))
	{
		destination_note_failure(relay, DELIVERY_TOPIC_REFUSED, "TOPIC_EXCEPTION",
								 "the name of the topic is too long");
		return DESTINATION_REFUSED;
	}
	/* Kafka transactions of a catch-up shall not wait until much is kept. */
	if (pipelined && !producer_has_topic(relay->producer, destination->name) &&
		!(relay->exact && relay->status.catching_up) && new_topics_wanted())
		return DESTINATION_NEW;
	state = await_destination(relay, event, pipelined, destination,
							  &missing_since);
	/* Where Kafka creates topics, each may take its time. */
	if (missing_since != 0 && state != DESTINATION_READY)
		(void) destination_moment(TimestampDifferenceMilliseconds(missing_since,
																  monotonic_now()));
	return state;
}

/* A topic that takes nothing, though it has leaders. */
static void
park_silent(void *arg, const char *topic, int partition)
{
	Relay	   *relay = arg;

	strlcpy(relay->failure_text, "Kafka answers, but acknowledges nothing",
			sizeof(relay->failure_text));
	park_in_flight(relay, topic, WHOLE_TOPIC, PARKED_SILENT);
}

/* For how long, in ms, has what is in flight not moved? */
static long
stuck_ms(Relay *relay, TimestampTz now)
{
	uint64		next = ledger_position(relay->ledger).next;

	if (relay->status.in_flight == 0 || next != relay->stuck_next)
		relay->stuck_since = now;
	relay->stuck_next = next;
	if (relay->status.in_flight == 0)
		return 0;
	/* In a Kafka transaction the ledger stands still. */
	return TimestampDifferenceMilliseconds(relay->exact ? relay->waiting_since :
										   relay->stuck_since, now);
}

/*
 * Does something in flight wait for a partition that cannot be written, as it
 * seems?  Then parks that and breaks the pipeline.
 */
void
destination_check_stuck(Relay *relay)
{
	TimestampTz now = monotonic_now();
	long		ms = stuck_ms(relay, now);
	bool		was_asked;
	int			silent_ms;

	if (relay->delivery_failed)
		return;
	if (ms < STUCK_MS + producer_linger_ms(relay->producer))
	{
		relay->stuck_question.number = 0;
		relay->stuck_reached_at = 0;
		return;
	}
	was_asked = relay->stuck_question.number != 0;
	if (!connection_answers(relay, &relay->stuck_question))
	{
		/* No broker answers: it is no wonder. */
		if (was_asked && relay->stuck_question.number == 0)
			relay->stuck_reached_at = 0;
		return;
	}
	if (relay->stuck_reached_at == 0)
		relay->stuck_reached_at = now;
	producer_each_leaderless(relay->producer, MOMENT_MS, park_leaderless, relay);
	silent_ms = relay->releasing ? STUCK_MS : SILENT_MS;
	if (!relay->stuck &&
		TimestampDifferenceExceeds(relay->stuck_reached_at, now, silent_ms))
		producer_each_stuck(relay->producer, silent_ms, park_silent, relay);
	if (relay->stuck)
		relay->delivery_failed = true;
}
