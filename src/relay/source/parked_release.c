/*-------------------------------------------------------------------------
 *
 * parked_release.c
 *	  Sends what was parked, once it can be.
 *
 * A parked topic is tried from time to time: a broker is asked whether the
 * topic exists and its partition has a leader.  If so the first of those that
 * wait is sent, alone, since a missing right shows only then; and then the
 * others, in batches, in order.  New events go to the end of the queue until it
 * is empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/parked_release.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "core/slice.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/source/retry_batch.h"
#include "relay/state/parked_topics.h"
#include "relay/state/relay.h"
#include "relay/state/send_requests.h"
#include "relay/state/set_aside.h"

#define ANSWER_MS 200			/* to look whether a broker has answered */

#define OF_TOPIC \
	" WHERE d.topic OPERATOR(pg_catalog.=) $1" \
	" AND d.partition OPERATOR(pg_catalog.=) $2"

#define PARKED_EVENTS EVENT_COLUMNS ", d.replay, d.position FROM outbox.held_event d" \
	SAME_EVENT OF_TOPIC " ORDER BY d.position LIMIT $3"

#define FORGET_PARKED \
	"DELETE FROM outbox.held_event d" \
	" WHERE d.id OPERATOR(pg_catalog.=) ANY ($1)"

/* The rows in outbox.event are gone: there is nothing left to wait for. */
#define FORGET_ORPHANS "DELETE FROM outbox.held_event d" OF_TOPIC

#define FORGET_TOPIC "DELETE FROM outbox.parked_topic d" OF_TOPIC

/* Does an event wait for it?  If not, its row is deleted. */
static bool
is_waited_for(const Parked *parked)
{
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		args[2];
	bool		found;

	worker_begin_sql();
	args[0] = CStringGetTextDatum(parked->topic);
	args[1] = Int32GetDatum(parked->partition);
	worker_run_sql("SELECT FROM outbox.held_event d" OF_TOPIC " LIMIT 1", 2, types,
				   args, SPI_OK_SELECT);
	found = SPI_processed > 0;
	if (!found)
		worker_run_sql(FORGET_TOPIC, 2, types, args, SPI_OK_DELETE);
	worker_commit_sql();
	return found;
}

/*
 * Asks whether a topic can be written.  Returns true when it seems so, and
 * false when it cannot, or when that is not known yet.
 */
static bool
probe(Relay *relay, Parked *parked)
{
	TimestampTz now = monotonic_now();
	ProducerTopic *topic = producer_topic(relay->producer, parked->topic);
	TopicStatus status = TOPIC_REFUSED;

	if (parked->asked_at == 0)
		parked->asked_at = now;
	if (topic)
		status = producer_probe(relay->producer, topic, parked->partition,
								parked->asked_at);
	if (status == TOPIC_ASKED)
	{
		parked->probe_at = TimestampTzPlusMilliseconds(now, ANSWER_MS);
		return false;
	}
	parked->asked_at = 0;
	if (status == TOPIC_READY)
	{
		parked_topics_open(parked);
		return true;
	}
	if (status == TOPIC_FORBIDDEN || status == TOPIC_REFUSED)
		parked_topics_fail(parked, producer_error_name(relay->producer),
						   producer_error(relay->producer));
	else
		parked_topics_fail(parked, parked->error_name, parked->error);
	/* All that waited may have been discarded. */
	if (!dead_letters_any_pending() && !is_waited_for(parked))
		parked_topics_remove(parked);
	return false;
}

/*
 * Is there something to send that was parked?  Asks brokers, but waits for no
 * answer.
 */
bool
parked_release_is_due(Relay *relay)
{
	Parked	   *parked = parked_topics_next_due(monotonic_now());

	return parked != NULL && (parked->sending || probe(relay, parked));
}

/*
 * Reads events that waited.  When there are none left, nothing is parked any
 * more.
 */
static bool
read_events(Parked *parked)
{
	Oid			types[3] = {TEXTOID, INT4OID, INT8OID};
	Datum		args[3];
	bool		found;

	worker_begin_sql();
	args[0] = CStringGetTextDatum(parked->topic);
	args[1] = Int32GetDatum(parked->partition);
	args[2] = Int64GetDatum(parked->batch_events);
	worker_run_sql(PARKED_EVENTS, 3, types, args, SPI_OK_SELECT);
	retry_batch_take_rows();
	found = retry_batch_size() > 0;
	if (found)
		parked_topics_store();
	else
	{
		worker_run_sql(FORGET_ORPHANS, 2, types, args, SPI_OK_DELETE);
		worker_run_sql(FORGET_TOPIC, 2, types, args, SPI_OK_DELETE);
	}
	worker_commit_sql();
	return found;
}

/*
 * Sends a batch of what was parked and can be sent.  Nothing else is in flight,
 * and all that was set aside is stored.  Returns whether there may be more.
 */
bool
parked_release_step(Relay *relay)
{
	Parked	   *parked = parked_topics_next_due(monotonic_now());
	Slice		none = SLICE_NULL;
	uint64		nrows;

	if (parked == NULL || !parked->sending)
		return false;
	if (!read_events(parked))
	{
		parked_topics_remove(parked);
		resend_look();
		return false;
	}
	retry_batch_prove(FORGET_PARKED);
	/* Whether we may write shows when we do, alone. */
	if (parked->batch_events == 1)
	{
		relay->alone_left = Max(relay->alone_left, 1);
		if (relay->exact)
			exactly_once_commit(relay, exactly_once_position(relay));
	}
	relay->releasing = parked;
	nrows = retry_batch_send(relay, RESEND_PARKED, NULL, none);
	if (relay->releasing)
		parked_topics_went_well(parked);
	relay->releasing = NULL;
	retry_batch_settle(relay, RESEND_PARKED, nrows, FORGET_PARKED);
	return true;
}
