/*-------------------------------------------------------------------------
 *
 * sender.c
 *	  Gets events to the broker, with patience.
 *
 * Normally events are pipelined: sender_event() leaves the event with the
 * producer and returns, and the ledger learns of the acknowledgement later.
 *
 * When the broker refuses anything, the producer cannot go on without breaking
 * the order of keys (see producer.h).  Then the relay starts over from what is
 * acknowledged and sends carefully, one event at a time (stop_and_wait.c),
 * until it is past what was refused.
 *
 * sender_event() runs inside a decoding callback.  It waits there, so that a
 * transaction of any size needs only as much memory as the producer's queue.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/sender.h"

#include <poll.h>

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "event/event.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "registry/relay_values.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/destination.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_stall.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/new_topics.h"
#include "relay/delivery/record_timestamp.h"
#include "relay/delivery/refusal_probe.h"
#include "relay/delivery/stop_and_wait.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/commit.h"
#include "relay/state/ledger.h"
#include "relay/state/record_encoder.h"
#include "relay/state/relay.h"

#define MAX_BACKOFF_MS 5000

/* Forgets what to wait for: it depends on the producer. */
static void
drop_wait_set(Relay *relay)
{
	if (relay->wait_set)
		FreeWaitEventSet(relay->wait_set);
	relay->wait_set = NULL;
}

/*
 * Opens a producer for the relay's configuration.  Returns false when the
 * library refuses the configuration; the status tells why.
 */
bool
sender_open(Relay *relay)
{
	char		error[PRODUCER_ERROR_LEN];

	drop_wait_set(relay);
	relay->config->batch_bytes = relay->batch_bytes;
	relay->producer = producer_open(relay->config, error);
	relay->opened_at = monotonic_now();
	relay->connected = false;
	relay->errors_seen = relay->errors_past = relay->unanswered_seen = 0;
	relay->status.in_flight = 0;
	relay->question.number = relay->stuck_question.number = 0;
	relay->stuck = false;
	relay->too_large = relay->ntoo_large = 0;
	if (relay->producer == NULL)
		strlcpy(relay->status.error, error, RELAY_ERROR_LEN);
	return relay->producer != NULL;
}

/*
 * Closes the producer; what it holds is dropped.
 */
void
sender_close(Relay *relay)
{
	Producer   *producer = relay->producer;

	drop_wait_set(relay);
	refusal_probe_close();
	if (producer == NULL)
		return;
	/* Once only: what ends the process comes here too. */
	relay->producer = NULL;
	relay->retries_before += producer_stats(producer)->retries;
	producer_close(producer);
}

/* A broker refuses a message, or the batch that it was in, for its size. */
static void
note_too_large(Relay *relay, const Delivery *delivery)
{
	int			bytes = Max(delivery->value_bytes, 1);

	relay->ntoo_large++;
	if (relay->too_large != 0 && bytes >= relay->too_large)
		return;
	relay->too_large = bytes;
	relay->too_large_sent = relay->ntoo_large == 1 ? delivery->sent_bytes : -1;
	strlcpy(relay->too_large_topic, delivery->topic, sizeof(relay->too_large_topic));
}

/* Takes one delivery report. */
static void
on_delivery(void *arg, const Delivery *delivery)
{
	Relay	   *relay = arg;

	relay->status.in_flight--;
	if (delivery->result == DELIVERY_OK)
	{
		relay->acknowledged = true;
		if (relay->exact)
		{
			exactly_once_delivered(relay, delivery);
			return;
		}
		ledger_acknowledge(relay->ledger, delivery->opaque);
		relay->status.events++;
		relay->status.bytes += delivery->bytes;
		return;
	}
	if (delivery->result != DELIVERY_RETRY && delivery->result != DELIVERY_PURGED)
		relay->refused_through = Max(relay->refused_through,
									 delivery->opaque + 1);
	if (delivery->result == DELIVERY_TOO_LARGE)
		note_too_large(relay, delivery);
	if (!relay->delivery_failed || relay->failure == DELIVERY_PURGED)
	{
		relay->delivery_failed = true;
		relay->failure = delivery->result;
		relay->failure_name = delivery->error_name;
		strlcpy(relay->failure_text, delivery->error_text,
				sizeof(relay->failure_text));
	}
}

/*
 * Serves delivery reports and whatever else the producer has to say.
 */
void
sender_serve(Relay *relay)
{
	producer_poll(relay->producer, on_delivery, relay);
	refusal_probe_serve();
	if (!relay->acknowledged)
		return;
	relay->acknowledged = false;
	relay->connected = true;
	relay->reopen_delay = FIRST_BACKOFF_MS;
	relay->waiting_since = monotonic_now();
	/* In a Kafka transaction, only its commit counts. */
	if (relay->exact)
		return;
	ending_progressed();
}

/*
 * The process ends.  What is in flight then is sent again by the next relay,
 * so gives Kafka, if it answers, timeout_ms to acknowledge it.
 */
void
sender_leave(Relay *relay, int timeout_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(), timeout_ms);
	struct pollfd fd = {.events = POLLIN};
	long		left = timeout_ms;

	if (relay->producer == NULL || relay->exact)
		return;
	/* What was acknowledged is, whatever came then. */
	producer_poll(relay->producer, on_delivery, relay);
	if (!relay->connected || producer_is_fatal(relay->producer))
		return;
	fd.fd = producer_event_fd(relay->producer);
	while (left > 0 && relay->status.in_flight > 0 && !relay->delivery_failed)
	{
		producer_flush(relay->producer);
		(void) poll(&fd, 1, (int) left);
		producer_poll(relay->producer, on_delivery, relay);
		left = TimestampDifferenceMilliseconds(monotonic_now(), until);
	}
}

/*
 * Waits for a while that doubles with each call.
 */
void
sender_back_off(Relay *relay, int *delay_ms)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(),
													*delay_ms);
	long		left = *delay_ms;

	while (left > 0)
	{
		relay_wait(relay, left);
		if (relay->producer)
			sender_serve(relay);
		relay_show(relay);
		left = TimestampDifferenceMilliseconds(monotonic_now(), until);
	}
	*delay_ms = Min(*delay_ms * 2, MAX_BACKOFF_MS);
}

/*
 * Makes a new producer in place of one that is beyond use, after a while that
 * grows until something is acknowledged.  What was usable may not be any more:
 * a file has gone, for instance.
 */
void
sender_reopen(Relay *relay)
{
	sender_close(relay);
	while (sender_back_off(relay, &relay->reopen_delay), !sender_open(relay))
		relay_obstacle(relay, RELAY_WAITING_CONFIGURATION, relay->status.error);
}

/*
 * Opens a producer, or waits until its configuration is another one or can be
 * used.
 */
void
sender_open_patiently(Relay *relay)
{
	while (!sender_open(relay))
	{
		relay_obstacle(relay, RELAY_WAITING_CONFIGURATION, relay->status.error);
		relay_wait(relay, -1);
	}
}

/*
 * The same at once, where nothing is wrong with the world.
 */
void
sender_replace(Relay *relay)
{
	sender_close(relay);
	if (!sender_open(relay))
		sender_reopen(relay);
}

/*
 * The pipeline is broken: what is not acknowledged must be sent again, and
 * carefully.  Returns only when the caller of sender_event() does that.
 */
static void
start_over(Relay *relay)
{
	LedgerPosition position;

	if (relay->exact)
		exactly_once_start_over(relay);
	/* The library may refuse a message before we have heard of others. */
	sender_serve(relay);
	position = ledger_position(relay->ledger);
	ereport(LOG,
			(errmsg("outbox relay starts over from what Kafka acknowledged"),
			 errdetail("A message was not accepted: %s.",
					   relay->delivery_failed ? relay->failure_text :
					   producer_error(relay->producer))));
	if (relay->stuck)
		relay->alone_left = 0;	/* what is to blame is parked */
	else if (relay->alone_left == 0 && stop_and_wait_explain(relay))
		;
	else
		relay->alone_left = relay->refused_through > position.next ?
			relay->refused_through - position.next : position.outstanding;
	relay->refused_through = 0;
	if (!relay->can_resend)
	{
		/* Out of the table, the next relay begins with the first event. */
		if (XLogRecPtrIsInvalid(position.commit) && relay->alone_left > 0)
			relay->alone_left += position.events;
		ending_restart();
	}
	relay->broken = true;
	relay->delivery_failed = false;
	ledger_rewind(relay->ledger);
	new_topics_forget();
	dead_letters_rewind(relay);
	sender_reopen(relay);
}

/*
 * Serves the producer between records.  When the pipeline is broken it returns
 * only between sender_begin() and sender_finish().
 */
void
sender_poll(Relay *relay)
{
	sender_serve(relay);
	if (!relay->delivery_failed && !producer_is_fatal(relay->producer))
		return;
	if (relay->exact || !ledger_is_empty(relay->ledger))
	{
		start_over(relay);
		return;
	}

	/* Nothing was under way: a new producer will do. */
	relay_obstacle(relay, RELAY_WAITING_KAFKA, producer_error(relay->producer));
	sender_reopen(relay);
}

/*
 * Waits until everything that was sent is acknowledged, and what waited for new
 * topics is sent.
 */
void
sender_drain(Relay *relay)
{
	new_topics_flush(relay);
	while (sender_poll(relay), relay->status.in_flight > 0)
	{
		connection_check(relay);
		relay_show(relay);
		relay_wait(relay, 1000);
	}
}

/*
 * Leaves a message with the producer, waiting for room, which acknowledgements
 * of others make.  Returns anything but SEND_QUEUE_FULL.
 */
SendResult
sender_leave_message(Relay *relay, const Message *message)
{
	SendResult	result;

	if (relay->status.in_flight == 0)
		relay->waiting_since = monotonic_now();
	while ((result = producer_send(relay->producer, message)) == SEND_QUEUE_FULL)
	{
		int64		in_flight = relay->status.in_flight;

		sender_serve(relay);
		if (relay->delivery_failed || producer_is_fatal(relay->producer))
			return SEND_FATAL;
		connection_check(relay);
		relay_show(relay);

		/* What was just acknowledged, perhaps the last of it, made room. */
		relay_wait(relay, relay->status.in_flight < in_flight ? 0 : 1000);
	}
	if (result == SEND_QUEUED)
	{
		relay->status.in_flight++;
		if (relay->exact && message->opaque != PROGRESS_OPAQUE)
			relay->exact->sent++;
	}
	return result;
}

/*
 * Waits until nothing is in flight, whatever becomes of it, or what is waits
 * for something that is parked now.
 */
void
sender_await_deliveries(Relay *relay)
{
	while (sender_serve(relay), relay->status.in_flight > 0 && !relay->stuck)
	{
		connection_check(relay);
		relay_show(relay);
		relay_wait(relay, 1000);
	}
}

/* Sends an event alone, or in spite of the others. */
static void
send_alone(Relay *relay, const Event *event, const Commit *commit,
		   uint64 number)
{
	stop_and_wait_send(relay, event, commit, number);
	if (!relay->broken && relay->alone_left > 0)
		relay->alone_left--;
}

/*
 * Sends an event that has that number in the ledger, or has new_topics.c keep
 * it for a while.  As sender_event() otherwise.
 */
void
sender_send(Relay *relay, const Event *event, const Commit *commit,
			uint64 number)
{
	Message		message = {0};
	Destination destination;
	SendResult	result;

	if (dead_letters_set_aside(relay, event, number))
		return;
	if (relay->alone_left > 0 || stop_and_wait_wanted(relay, event))
	{
		send_alone(relay, event, commit, number);
		return;
	}
	switch (destination_wait(relay, event, true, &destination))
	{
		case DESTINATION_READY:
			break;
		case DESTINATION_PARKED:
			dead_letters_park(relay, event, number, &destination);
			return;
		case DESTINATION_REFUSED:
			send_alone(relay, event, commit, number);
			return;
		case DESTINATION_NEW:
			new_topics_keep(relay, destination.name, event, commit, number);
			return;
		case DESTINATION_BROKEN:
			return;
	}
	if (stop_and_wait_start(relay, event, destination.topic))
	{
		send_alone(relay, event, commit, number);
		return;
	}

	record_encoder_message(&relay->encoder, event, record_timestamp_of(relay, commit), &message);
	message.topic = destination.topic;
	message.opaque = number;
	result = sender_leave_message(relay, &message);
	if (result == SEND_TOO_LARGE)
		stop_and_wait_refuse(relay, event, number);
	else if (result == SEND_REFUSED)
		send_alone(relay, event, commit, number);
	else if (result == SEND_FATAL)
		start_over(relay);
}

/*
 * Sends an event of a transaction that has committed.  Returns when the
 * producer has it, or keeps it until it has its topic, and sent alone when
 * the broker has.  An event that is not to be sent now, since it waits behind
 * another or is refused for good, is set aside; dead_letters_store() makes that
 * last.
 */
void
sender_event(Relay *relay, const Event *event, const Commit *commit)
{
	uint64		number;

	if (relay->broken)
		return;
	dead_letters_before_more(relay);
	if (relay->broken)
		return;
	if (relay->exact)
		exactly_once_event(relay, event, commit);
	number = ledger_add_event(relay->ledger, commit);
	if (!new_topics_keep_behind(relay, event, commit, number))
		sender_send(relay, event, commit, number);
	if (!relay->broken)
		new_topics_step(relay, false);
}
