/*-------------------------------------------------------------------------
 *
 * stop_and_wait.c
 *	  Events that are sent one at a time, because something is refused.
 *
 * When the broker refuses a batch, one event of it may be the culprit and the
 * others mere neighbours.  Sent alone, each shows what it is: the neighbours
 * are delivered, in order, and the culprit becomes a dead letter.  What is not
 * an event's fault is waited for: a broker that is away, for ever, and a topic
 * or partition that cannot be written, for a moment; then it is parked.  So is
 * a topic that refuses even the present time: the clock here is wrong, or there.
 *
 * Each time the pipeline breaks, much has to be sent again.  So events that are
 * like one that was refused (suspect_topics.c) are sent alone.  A topic is
 * asked once a second whether it still refuses such, by one of them; those in
 * between become dead letters unasked, so that a million of them do not hold
 * up everything else.  In a Kafka transaction, which a refusal would cost, it
 * is asked less often, and beside it (refusal_probe.c).  Who calls
 * outbox.retry() wants it to be asked.
 *
 * Where events wait behind a refused one, the first that goes to a partition
 * is sent alone too: until that is acknowledged, the next could pass it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/stop_and_wait.h"

#include <limits.h>

#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "event/event.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/producer_transaction.h"
#include "registry/relay_values.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/destination.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_stall.h"
#include "relay/delivery/record_timestamp.h"
#include "relay/delivery/refusal.h"
#include "relay/delivery/refusal_probe.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/state/commit.h"
#include "relay/state/ledger.h"
#include "relay/state/parked_topics.h"
#include "relay/state/record_encoder.h"
#include "relay/state/relay.h"
#include "relay/state/suspect_topics.h"

#define BATCH_FACTOR 4			/* by which they get smaller */
#define LEAST_BATCH_BYTES 4000
#define LOG_INTERVAL_MS 1000	/* between two messages about dead letters */
#define AFTERCARE 100			/* events sent alone after a refused one */

/* Did a broker see the last event that was refused? */
static bool reached_broker = false;

/* Was it the library that refused it, whatever a broker may say? */
static bool by_library = false;

/*
 * Is there time to find out about an event?  In a Kafka transaction there is
 * not always: starting over stores what was refused in it so far, and where
 * nothing was, events are sent unasked.
 */
static bool
has_time(Relay *relay)
{
	if (!relay->exact || exactly_once_has_time(relay))
		return true;
	if (dead_letters_any_pending())
	{
		sender_drain(relay);
		ending_restart();
	}
	return false;
}

/*
 * Shall an event be sent alone, because of what its topic refused before?
 * Cheap as long as nothing was refused.
 */
bool
stop_and_wait_wanted(Relay *relay, const Event *event)
{
	return refusal_expected(relay, event) != NULL && has_time(relay);
}

/*
 * The event was refused: others that come soon may be, too.  For what reason,
 * where it is not size or topic, nobody can tell; so some are sent alone,
 * whatever topic they are for, or, where that is not enough to go on if they
 * are refused as well, all of the topic for a while.  What the library itself
 * finds too large tells nothing of the topic.
 */
static void
note_refusal(Relay *relay, const Event *event)
{
	if (by_library)
		return;
	if (relay->failure == DELIVERY_REFUSED && !relay->exact &&
		event_key(event).data != NULL)
		relay->alone_left = Max(relay->alone_left, AFTERCARE);
	else
		refusal_learn(relay, event);
}

/*
 * The pipeline broke because something was too large.  If that was a batch,
 * smaller ones are sent from now on; a message that was refused alone is
 * suspect.  Returns whether that explains all, so that the others need not be
 * sent one at a time.
 */
bool
stop_and_wait_explain(Relay *relay)
{
	int			batch_bytes = producer_batch_bytes(relay->producer);
	SuspectTopic refusal = {.size = relay->too_large,
		.wire_size = relay->too_large_sent > 0 ? relay->too_large_sent : INT_MAX,
	.refused_at = monotonic_now()};
	const SuspectTopic *known;

	if (relay->failure != DELIVERY_TOO_LARGE || relay->too_large == 0)
		return false;
	/* A batch is refused as a whole, so a single message was alone. */
	if (relay->too_large < batch_bytes && relay->ntoo_large > 1)
	{
		if (batch_bytes <= LEAST_BATCH_BYTES)
			return false;
		relay->batch_bytes = Max(batch_bytes / BATCH_FACTOR, LEAST_BATCH_BYTES);
		ereport(LOG,
				(errmsg("outbox relay sends batches of at most %d bytes from now on",
						relay->batch_bytes),
				 errdetail("A topic refuses larger ones: \"%s\".", relay->too_large_topic),
				 errhint("Set the option \"batch.size\" of the server \"kafka\" to the least max.message.bytes of the topics.")));
		return true;
	}
	/* If it was suspect already, then something else is wrong. */
	known = suspect_topics_find(relay->too_large_topic, relay->too_large, true);
	if (known && (known->wire_size == INT_MAX ||
				  refusal.wire_size >= known->wire_size))
		return false;
	strlcpy(refusal.error_name, relay->failure_name, sizeof(refusal.error_name));
	strlcpy(refusal.error, relay->failure_text, sizeof(refusal.error));
	suspect_topics_learn(relay->too_large_topic, &refusal);
	return true;
}

/*
 * Shall an event be sent alone, because nothing may pass it if it is refused,
 * and something could?  A Kafka transaction would be aborted with all of it.
 */
bool
stop_and_wait_start(const Relay *relay, const Event *event,
					const ProducerTopic *topic)
{
	producer_pin(relay->producer, outbox_on_dead_letter == DEAD_LETTER_HOLD);
	return outbox_on_dead_letter == DEAD_LETTER_HOLD && !relay->exact &&
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
	by_library = result == SEND_TOO_LARGE;
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
 * The event was refused, or set aside before it was sent.  Nothing is in
 * flight, and nothing is wrong with anything else: goes on.
 */
static void
go_on(Relay *relay)
{
	/* A Kafka transaction cannot go on: the next begins where it did. */
	if (relay->exact && reached_broker && !exactly_once_drop(relay))
	{
		if (relay->failure == DELIVERY_TIME_REFUSED)
			relay->alone_left += ledger_position(relay->ledger).outstanding;
		ending_restart();
	}
	relay->too_large = relay->ntoo_large = 0;
	if (producer_is_fatal(relay->producer))
		sender_replace(relay);
}

/*
 * The broker does not take the message's timestamp.  Returns whether the event
 * is to be sent with another one.
 */
static bool
change_time(Relay *relay, const Event *event, const Commit *commit,
			const Message *message)
{
	if (!record_timestamp_refused(relay, commit, message->timestamp_ms))
		return false;
	go_on(relay);
	if (relay->exact)
		exactly_once_event(relay, event, commit);
	return true;
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
		bool		in_doubt = relay->exact && refusal_expected(relay, event) != NULL &&
		exactly_once_has_time(relay);

		reached_broker = by_library = false;
		state = destination_wait(relay, event, false, destination);
		if (state != DESTINATION_READY)
			return state == DESTINATION_PARKED ? OUTCOME_PARKED : OUTCOME_REFUSED;
		record_encoder_message(&relay->encoder, event, record_timestamp_of(relay, commit), &message);
		message.topic = destination->topic;
		message.opaque = number;
		if (in_doubt && refusal_probe_refuses(relay, &message, destination->name))
			return OUTCOME_REFUSED;
		if (relay->exact)
			exactly_once_expect_refusal(relay);
		if (try_alone(relay, &message))
			return OUTCOME_DELIVERED;
		look_behind_purge(relay);
		relay->delivery_failed = false;
		if (relay->failure == DELIVERY_TIME_REFUSED &&
			change_time(relay, event, commit, &message))
			continue;
		if (relay->failure == DELIVERY_TOPIC_FORBIDDEN ||
			relay->failure == DELIVERY_TIME_REFUSED)
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
	TimestampTz now = monotonic_now();
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
	dead_letters_add(relay, event, number, relay->failure_name,
					 relay->failure_text);
}

/*
 * The library has just refused the event, which has that number in the ledger,
 * as too large.  There is no need to ask again when it is alone.
 */
void
stop_and_wait_refuse(Relay *relay, const Event *event, uint64 number)
{
	destination_note_failure(relay, DELIVERY_TOO_LARGE,
							 producer_error_name(relay->producer),
							 producer_error(relay->producer));
	give_up(relay, event, number);
}

/*
 * What is to blame is found, and others like it will be known.  So only some
 * more are sent alone, in case they are to blame as well, and not all that was
 * under way.  Unless a process before this one ended with an error.
 */
static void
relax(Relay *relay)
{
	if (!ending_is_cautious())
		relay->alone_left = Min(relay->alone_left, AFTERCARE);
}

/*
 * Sends one event, which has that number in the ledger, and holds everything
 * else until it is acknowledged or set aside.
 */
void
stop_and_wait_send(Relay *relay, const Event *event, const Commit *commit,
				   uint64 number)
{
	Destination destination;

	/* What breaks in front of it takes it back, so order needs no wait. */
	if (refusal_is_certain(relay, event))
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
			refusal_dispel(relay, event);
			break;
		case OUTCOME_PARKED:
			dead_letters_park(relay, event, number, &destination);
			relax(relay);
			go_on(relay);
			break;
		case OUTCOME_REFUSED:
			note_refusal(relay, event);
			give_up(relay, event, number);
			if (relay->exact && relay->failure != DELIVERY_REFUSED)
				relax(relay);
			go_on(relay);
			break;
	}
	if (relay->held)
	{
		relay->held = false;
		relay_work(relay);
	}
}
