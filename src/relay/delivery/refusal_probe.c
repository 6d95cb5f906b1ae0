/*-------------------------------------------------------------------------
 *
 * refusal_probe.c
 *	  Asks Kafka whether it refuses an event, beside a Kafka transaction.
 *
 * What a broker refuses spoils the Kafka transaction that it is in, and the
 * relay has to start over.  So an event that is like one that was refused is
 * first sent by another producer, in a transaction of its own, which is aborted
 * whatever comes of it.  If the event is refused there, the relay's transaction
 * goes on without it.  Whoever reads what is not committed sees such an event,
 * as always.
 *
 * That producer exists as long as it is needed.  Where it does not work, for
 * want of a right to its transactional.id perhaps, nothing is known beforehand,
 * and an event that is refused costs the relay's transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/refusal_probe.h"

#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/producer_transaction.h"
#include "relay/delivery/destination.h"
#include "relay/delivery/transactional_id.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/relay.h"

#define OPEN_MS 10000			/* to get to be the only one of its name */
#define ASK_MS 10000			/* for all that a probe takes */
#define REST_MS 60000			/* after which the producer is not needed, or
								 * one that did not work is tried again */
#define LEAVE_MS 500			/* for an abort when it is closed */

/*
 * A transaction that a crash leaves open hides what comes behind it for so
 * long.  The library wants its requests to end before.
 */
#define TRANSACTION_TIMEOUT_MS "10000"

/* NULL while there is none. */
static Producer *prober = NULL;

/* Is its transaction open? */
static bool is_open = false;

static TimestampTz used_at = 0; /* by monotonic_now() */
static TimestampTz failed_at = 0;	/* likewise; 0 if it works */

/* What became of the event. */
static Delivery answer;
static bool answered;
static char answer_text[PRODUCER_ERROR_LEN];

static void
on_answer(void *arg, const Delivery *delivery)
{
	answered = true;
	answer = *delivery;
	strlcpy(answer_text, delivery->error_text ? delivery->error_text : "",
			sizeof(answer_text));
}

/* Waits for the producer, and serves it.  False when it has taken too long. */
static bool
wait_until(Relay *relay, TimestampTz deadline)
{
	long		left = TimestampDifferenceMilliseconds(monotonic_now(), deadline);

	if (left <= 0)
		return false;
	producer_flush(prober);
	(void) WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_SOCKET_READABLE |
							 WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 producer_event_fd(prober), Min(left, 100),
							 PG_WAIT_EXTENSION);
	relay_tend(relay);
	producer_poll(prober, on_answer, NULL);
	relay_show(relay);
	return true;
}

/*
 * Does what takes time; true when it is done.  Waits until the call has come to
 * its end, however it ends: a producer can be closed only then.
 */
static bool
perform(Relay *relay, TransactionOperation operation, TimestampTz deadline)
{
	TransactionResult result;

	if (!transaction_try_start(prober, operation,
							   (int) TimestampDifferenceMilliseconds(monotonic_now(), deadline)))
		return false;
	deadline = TimestampTzPlusMilliseconds(deadline, 5 * TRANSACTION_GRACE_MS);
	while ((result = transaction_result(prober)) == TRANSACTION_RUNNING)
		if (!wait_until(relay, deadline))
			return false;
	return result == TRANSACTION_DONE;
}

/* Has an option a value of ours, whatever it is? */
static bool
is_ours(const char *name)
{
	return strcmp(name, "transaction.timeout.ms") == 0 ||
		strcmp(name, "socket.timeout.ms") == 0 ||
		strcmp(name, "linger.ms") == 0 ||
		strcmp(name, "queue.buffering.max.ms") == 0;
}

/* The relay's own settings, but for times, under another name. */
static Producer *
open_prober(const Relay *relay, char *error)
{
	KafkaConfig config = *relay->config;
	char	   *name = psprintf("%s.probe", transactional_id_name(relay->config, 0));
	DefElem    *timeout = makeDefElem("transaction.timeout.ms",
									  (Node *) makeString(TRANSACTION_TIMEOUT_MS), -1);
	Producer   *producer;
	ListCell   *lc;

	config.options = list_make1(timeout);
	foreach(lc, relay->config->options)
		if (!is_ours(((DefElem *) lfirst(lc))->defname))
		config.options = lappend(config.options, lfirst(lc));
	config.transactional_id = name;
	producer = producer_open(&config, error);
	list_free(config.options);
	pfree(timeout);
	pfree(name);
	return producer;
}

/* It does not work: says so, and leaves it alone for a while. */
static void
note_failure(const char *reason)
{
	failed_at = monotonic_now();
	ereport(LOG,
			(errmsg("outbox relay cannot ask Kafka beforehand whether it refuses an event: %s",
					*reason ? reason : "no answer in time"),
			 errdetail("Each event that is refused makes the relay start over."),
			 errhint("The relay needs the right to write under all transactional ids with its prefix.")));
}

/* Has a producer that works; false when there is none now. */
static bool
has_prober(Relay *relay)
{
	char		error[PRODUCER_ERROR_LEN];

	if (prober)
		return true;
	if (failed_at != 0 &&
		!TimestampDifferenceExceeds(failed_at, monotonic_now(), REST_MS))
		return false;
	prober = open_prober(relay, error);
	if (prober == NULL)
	{
		note_failure(error);
		return false;
	}
	return perform(relay, TRANSACTION_INIT,
				   TimestampTzPlusMilliseconds(monotonic_now(), OPEN_MS));
}

/* Makes its topic known to the producer. */
static ProducerTopic *
find_topic(Relay *relay, const char *name, TimestampTz deadline)
{
	ProducerTopic *topic = producer_topic(prober, name);

	if (topic == NULL)
		return NULL;
	while (producer_topic_status(prober, topic) != TOPIC_READY)
		if (!wait_until(relay, deadline))
			return NULL;
	return topic;
}

/* Waits until it is known what became of the event. */
static bool
await_answer(Relay *relay, TimestampTz deadline)
{
	producer_hurry(prober);
	while (!answered)
		if (producer_is_fatal(prober) || !wait_until(relay, deadline))
			return false;
	return true;
}

/*
 * Sends a message, has what it was sent in aborted, and knows what became of
 * it.  False when that went wrong, and the producer is of no use.
 */
static bool
ask(Relay *relay, const Message *message, const char *name)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(monotonic_now(), ASK_MS);
	Message		copy = *message;
	SendResult	result;

	if ((copy.topic = find_topic(relay, name, deadline)) == NULL ||
		transaction_begin(prober) != TRANSACTION_DONE)
		return false;
	is_open = true;
	answered = false;
	result = producer_send(prober, &copy);
	/* What the library itself refuses, it refuses the relay, too. */
	if (result == SEND_TOO_LARGE)
		answer.result = DELIVERY_OK;
	else if (result != SEND_QUEUED || !await_answer(relay, deadline))
		return false;
	if (!perform(relay, TRANSACTION_ABORT, deadline))
		return false;
	is_open = false;
	return true;
}

/*
 * Is a message refused for good, by the topic of that name?  Notes the failure
 * then.  False also when that cannot be found out.
 */
bool
refusal_probe_refuses(Relay *relay, const Message *message, const char *topic)
{
	bool		known;

	used_at = monotonic_now();
	known = has_prober(relay) && ask(relay, message, topic);
	if (!known)
	{
		if (prober)
			note_failure(producer_error(prober));
		refusal_probe_close();
		return false;
	}
	failed_at = 0;
	if (answer.result != DELIVERY_TOO_LARGE &&
		answer.result != DELIVERY_TOPIC_REFUSED &&
		answer.result != DELIVERY_REFUSED)
		return false;
	destination_note_failure(relay, answer.result, answer.error_name, answer_text);
	return true;
}

/*
 * Between records: serves the producer, and closes it if it was not needed for
 * a while.
 */
void
refusal_probe_serve(void)
{
	if (prober == NULL)
		return;
	if (TimestampDifferenceExceeds(used_at, monotonic_now(), REST_MS))
		refusal_probe_close();
	else
		producer_poll(prober, on_answer, NULL);
}

/*
 * Closes the producer: the settings are others now, or the process ends.
 */
void
refusal_probe_close(void)
{
	Producer   *closing = prober;

	/* Once only: what ends the process comes here too. */
	prober = NULL;
	if (closing == NULL)
		return;
	if (is_open)
		transaction_leave(closing, LEAVE_MS);
	is_open = false;
	producer_close(closing);
}
