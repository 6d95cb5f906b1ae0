/*-------------------------------------------------------------------------
 *
 * broker_connection.c
 *	  Whether Kafka can be reached, and what is shown when it cannot.
 *
 * An acknowledgement tells that it can, and the library's errors that it may
 * not.  In between a broker is asked, without waiting for the answer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/broker_connection.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/producer/producer.h"
#include "registry/relay_values.h"
#include "relay/delivery/destination.h"
#include "relay/delivery/exactly_once_stall.h"
#include "relay/delivery/sender.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/relay.h"

#define ASK_INTERVAL_MS 100		/* whether a broker answers */
#define CONNECT_MS 1000			/* that a new connection may take */
#define STALL_MS 3000			/* without an acknowledgement */

/*
 * Has the producer told us what is wrong with the connection since all was well?
 */
bool
connection_has_error(const Relay *relay)
{
	return producer_stats(relay->producer)->nerrors > relay->errors_past;
}

/*
 * What is wrong with the connection, as far as the producer told us.
 */
const char *
connection_error(const Relay *relay)
{
	if (connection_has_error(relay))
		return producer_stats(relay->producer)->error;
	return relay->connected ? "Kafka acknowledges nothing" : "no broker answers";
}

/*
 * Does a broker answer?  Asks first, and answers no as long as that is open;
 * then question->number is not 0.
 */
bool
connection_answers(Relay *relay, BrokerQuestion *question)
{
	TimestampTz now = monotonic_now();
	bool		reached;

	if (question->number == 0)
	{
		if (!TimestampDifferenceExceeds(question->asked_at, now, ASK_INTERVAL_MS))
			return false;
		question->number = producer_ask(relay->producer);
		question->asked_at = now;
	}
	if (!producer_answered(relay->producer, question->number, &reached))
		return false;
	question->number = 0;
	return reached;
}

/*
 * Is there a broker that answers, as far as is known?  Asks again after news of
 * the connection, or a question that was not answered, and answers no as long
 * as that is open.
 */
bool
connection_is_up(Relay *relay)
{
	const ProducerStats *stats = producer_stats(relay->producer);

	if (stats->nerrors != relay->errors_seen ||
		producer_unanswered(relay->producer) != relay->unanswered_seen)
	{
		relay->errors_seen = stats->nerrors;
		relay->unanswered_seen = producer_unanswered(relay->producer);
		relay->connected = false;
	}
	if (!relay->connected)
		relay->connected = connection_answers(relay, &relay->question);
	return relay->connected;
}

/*
 * Finds out whether Kafka can be reached, when there is a reason to ask, and
 * shows it.
 */
void
connection_check(Relay *relay)
{
	const ProducerStats *stats = producer_stats(relay->producer);
	bool		stalled = relay->status.in_flight > 0 &&
	TimestampDifferenceExceeds(relay->waiting_since,
							   monotonic_now(),
							   STALL_MS + producer_linger_ms(relay->producer));

	if (connection_is_up(relay) && !stalled)
	{
		relay->errors_past = stats->nerrors;
		relay_work(relay);
	}
	else if (stats->nerrors > relay->errors_past || stalled ||
			 ((relay->status.state == relay->working_state ||
			   relay->status.state == RELAY_STARTING) &&
			  TimestampDifferenceExceeds(relay->opened_at, monotonic_now(),
										 CONNECT_MS)))
		relay_obstacle(relay, RELAY_WAITING_KAFKA, connection_error(relay));
	destination_check_stuck(relay);
	if (relay->exact && !relay->stuck)
		exactly_once_check_stall(relay);
}

/*
 * Waits until Kafka can be reached.
 */
void
connection_wait(Relay *relay)
{
	while (connection_check(relay), !relay->connected)
	{
		relay_wait(relay, 1000);
		sender_serve(relay);
	}
}
