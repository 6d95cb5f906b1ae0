/*-------------------------------------------------------------------------
 *
 * exactly_once_stall.c
 *	  What keeps a Kafka transaction from being completed.
 *
 * The process ends then, and the next one begins with the last transaction that
 * was committed (relay_takeover.c).  It is told what can be known of the
 * reason, so that it does not run into the same again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/exactly_once_stall.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_transaction.h"
#include "registry/relay_values.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/fencing.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/stop_and_wait.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"

#define STALL_MS 3000			/* of a commit */
#define MAX_PATIENCE_MS 60000
#define REPORT_MS 200			/* that a delivery report may come later */

static const char waiting[] = "Kafka does not commit a transaction";

/*
 * Old releases of librdkafka may never send what waits for a coordinator that
 * was away for a moment.  When nothing moves although a broker answers, a new
 * producer is needed.  Doubles the patience, in case Kafka is just slow.
 */
void
exactly_once_check_stall(Relay *relay)
{
	ExactlyOnce *exact = relay->exact;
	TimestampTz now = monotonic_now();

	exact->moved_at = Max(exact->moved_at, relay->waiting_since);
	if (relay->status.in_flight == 0 && !transaction_is_running(relay->producer))
		exact->moved_at = now;
	if (!TimestampDifferenceExceeds(exact->moved_at, now, relay->patience +
									producer_linger_ms(relay->producer)))
		return;
	if (!connection_answers(relay, &exact->question))
	{
		/* No broker answers: it is no wonder. */
		if (exact->question.number == 0 && exact->question.asked_at >= exact->moved_at)
			exact->moved_at = now;
		return;
	}
	ereport(LOG,
			(errmsg("outbox relay starts over: Kafka answers, but a transaction did not move for %d ms",
					relay->patience)));
	relay->patience = Min(relay->patience * 2, MAX_PATIENCE_MS);
	ending_restart_later();
}

/*
 * Waits for what transaction_start() began, to do what is being tried since
 * then.  Returns its result, which also tells when the producer is beyond use.
 */
TransactionResult
exactly_once_wait(Relay *relay, TimestampTz since)
{
	TransactionResult result;

	relay->exact->moved_at = since;
	while ((result = transaction_result(relay->producer)) == TRANSACTION_RUNNING)
	{
		if (TimestampDifferenceExceeds(since, monotonic_now(), STALL_MS))
			relay_obstacle(relay, RELAY_WAITING_KAFKA,
						   connection_has_error(relay) ?
						   connection_error(relay) : waiting);
		exactly_once_check_stall(relay);
		relay_show(relay);
		relay_wait(relay, 1000);
		sender_serve(relay);
	}
	relay->connected |= result == TRANSACTION_DONE;
	return result;
}

/*
 * The library knows that a transaction has failed before it reports which
 * message did.  Waits for that, but not long.
 */
static void
await_reason(Relay *relay)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(), REPORT_MS);

	while (relay->status.in_flight > 0 && monotonic_now() < until &&
		   (!relay->delivery_failed || relay->failure == DELIVERY_PURGED) &&
		   !producer_is_fatal(relay->producer) &&
		   !transaction_is_running(relay->producer))
	{
		relay_wait(relay, REPORT_MS / 10);
		sender_serve(relay);
	}
}

/*
 * The Kafka transaction cannot be completed: the process ends and the next one
 * sends its content again.
 */
void
exactly_once_start_over(Relay *relay)
{
	const char *reason;
	const char *failure;
	bool		refused;

	await_reason(relay);
	reason = relay->delivery_failed ? relay->failure_text :
		producer_error(relay->producer);
	if (transaction_is_fenced(relay->producer))
		fencing_fence(relay);
	failure = transaction_failure(relay->producer, &refused);
	if (relay->delivery_failed && relay->failure != DELIVERY_RETRY &&
		relay->failure != DELIVERY_PURGED)
		refused = true;
	if (refused && !relay->exact->claimed)
		fencing_refused(relay, failure ? failure : reason);
	if (failure && relay->delivery_failed && relay->failure == DELIVERY_PURGED)
		reason = failure;
	ereport(LOG,
			(errmsg("outbox relay starts over from the last Kafka transaction"),
			 errdetail("A transaction was not accepted: %s.", reason)));
	strlcpy(relay->status.error, reason, RELAY_ERROR_LEN);
	relay->status.error_at = GetCurrentTimestamp();
	/* The next one will know better. */
	if (relay->alone_left == 0 && stop_and_wait_explain(relay))
		ending_restart();
	if (relay->delivery_failed && relay->failure != DELIVERY_RETRY)
		relay->alone_left = Max(relay->alone_left,
								ledger_position(relay->ledger).outstanding);
	ending_restart_later();
}
