/*-------------------------------------------------------------------------
 *
 * dead_letter_retry.c
 *	  Sends dead letters again, and events that waited behind one.
 *
 * outbox.retry() marks dead letters.  Between two rounds of live traffic the
 * relay sends a batch of them, out of outbox.event, in the order in which they
 * were refused.  Those that Kafka takes are dead letters no more, the others
 * have failed once again.
 *
 * When nothing is in front of a held key any more, because the dead letter was
 * sent or discarded, those who wait are sent in batches, in order.  New events
 * of the key still go to the end of the queue, until it is empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/dead_letter_retry.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "core/slice.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/source/batch_turn.h"
#include "relay/source/parked_release.h"
#include "relay/source/retry_batch.h"
#include "relay/state/held_keys.h"
#include "relay/state/parked_topics.h"
#include "relay/state/relay.h"
#include "relay/state/send_requests.h"
#include "relay/state/set_aside.h"

/* Rows of a topic and key, by the index, which has no room for long keys. */
#define OF_KEY(topic, key) \
	" d.topic OPERATOR(pg_catalog.=) " topic \
	" AND pg_catalog.hashtextextended(d.key, 0::pg_catalog.int8)" \
	"     OPERATOR(pg_catalog.=)" \
	"     pg_catalog.hashtextextended(" key ", 0::pg_catalog.int8)" \
	" AND d.key OPERATOR(pg_catalog.=) " key

#define RETRIED_EVENTS EVENT_COLUMNS ", d.replay, d.position FROM outbox.dead_letter d" \
	SAME_EVENT " WHERE d.state OPERATOR(pg_catalog.=) 'retrying'" \
	" AND NOT EXISTS (SELECT FROM outbox.parked_topic p" \
	"                 WHERE p.topic OPERATOR(pg_catalog.=) d.topic)" \
	" ORDER BY d.position LIMIT $1"

#define WAITING_EVENTS EVENT_COLUMNS ", false, d.position FROM outbox.held_event d" \
	SAME_EVENT " WHERE d.partition IS NULL AND" OF_KEY("$2", "$3") " ORDER BY d.position LIMIT $1"

#define FORGET_RETRIED \
	"DELETE FROM outbox.dead_letter d" \
	" WHERE d.id OPERATOR(pg_catalog.=) ANY ($1)" \
	" AND d.state OPERATOR(pg_catalog.=) 'retrying'"

#define FORGET_WAITING \
	"DELETE FROM outbox.held_event d" \
	" WHERE d.id OPERATOR(pg_catalog.=) ANY ($1)"

/* The row in outbox.event is gone: there is nothing left to wait for. */
#define FORGET_ORPHANS \
	"DELETE FROM outbox.held_event d WHERE d.partition IS NULL AND" \
	OF_KEY("$1", "$2")

/*
 * Before something is sent out of turn: nothing is in flight then, and all that
 * was set aside is stored.  Until that is so nothing else gets on, so only who
 * has something to send waits for it.
 */
static void
quiesce(Relay *relay)
{
	sender_drain(relay);
	dead_letters_store(relay);
}

/* Reads up to so many dead letters that are to be sent again. */
static int
read_retried(int count)
{
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {Int64GetDatum(count)};

	worker_begin_sql();
	worker_run_sql(RETRIED_EVENTS, 1, types, args, SPI_OK_SELECT);
	retry_batch_take_rows();
	worker_commit_sql();
	return retry_batch_size();
}

/*
 * Sends dead letters that are to be sent again.  Returns whether there were
 * any.
 */
static bool
send_retried(Relay *relay)
{
	Slice		none = SLICE_NULL;

	if (read_retried(1) == 0)
		return false;
	quiesce(relay);
	/* They may have been discarded meanwhile. */
	if (read_retried(ending_batch_events()) == 0)
		return true;
	retry_batch_prove(FORGET_RETRIED);
	retry_batch_settle(relay, RESEND_FAILED,
					   retry_batch_send(relay, RESEND_FAILED, NULL, none), FORGET_RETRIED);
	send_requests.free_keys = true;
	return true;
}

/* Finds out which keys are free.  Needs SPI. */
static void
look_at_keys(void)
{
	worker_run_sql("SELECT topic, key FROM outbox.dead_letter WHERE holds", 0, NULL, NULL,
				   SPI_OK_SELECT);
	held_keys_unblock_all();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Slice		key;

		key.data = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		key.len = strlen(key.data);
		held_keys_block(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1),
						key);
	}
	send_requests.free_keys = false;
}

/*
 * Reads events that waited for a key and need not wait any more.  When there
 * are none left, the key is not held any more.
 */
static void
read_waiting(const char *topic, Slice key)
{
	Oid			types[3] = {INT8OID, TEXTOID, TEXTOID};
	Datum		args[3] = {Int64GetDatum(ending_batch_events())};

	worker_begin_sql();
	args[1] = CStringGetTextDatum(topic);
	args[2] = PointerGetDatum(cstring_to_text_with_len(key.data, key.len));
	worker_run_sql(WAITING_EVENTS, 3, types, args, SPI_OK_SELECT);
	retry_batch_take_rows();
	if (retry_batch_size() == 0)
	{
		worker_run_sql(FORGET_ORPHANS, 2, types + 1, args + 1, SPI_OK_DELETE);
		held_keys_remove(topic, key);
	}
	worker_commit_sql();
}

/*
 * Sends events that waited and need not wait any more.  Returns whether there
 * may be more.
 */
static bool
send_waiting(Relay *relay)
{
	const char *topic;
	Slice		key;

	if (send_requests.free_keys)
	{
		/* What is not stored yet holds its key as well. */
		if (dead_letters_any_pending())
			quiesce(relay);
		worker_begin_sql();
		look_at_keys();
		worker_commit_sql();
	}
	if (!held_keys_next_free(&topic, &key))
		return false;
	quiesce(relay);
	read_waiting(topic, key);
	if (retry_batch_size() > 0)
	{
		retry_batch_prove(FORGET_WAITING);
		retry_batch_settle(relay, RESEND_HELD,
						   retry_batch_send(relay, RESEND_HELD, topic, key), FORGET_WAITING);
	}
	return true;
}

/*
 * How long to wait, in ms, before the next step, and at most.
 */
long
dead_letter_retry_wait_ms(const Relay *relay, long at_most)
{
	TimestampTz now = monotonic_now();

	if (!relay->connected || !relay->caught_up)
		return at_most;
	return Min(at_most, Max(send_requests.retries ? 0 : parked_topics_wait_ms(now, at_most),
							batch_turn_wait_ms(now)));
}

/*
 * Sends a batch of events that were set aside and are to be sent now, if there
 * are any and it is time for one; what is in flight is waited for then.  Returns
 * whether there may be more.  Call between records.
 */
bool
dead_letter_retry_step(Relay *relay)
{
	TimestampTz began = monotonic_now();
	bool		more = false;

	if (!relay->connected || !relay->caught_up ||
		(!parked_release_is_due(relay) && !send_requests.retries) || !batch_turn_is_due(relay))
		return false;

	if (parked_release_is_due(relay))
	{
		quiesce(relay);
		more = parked_release_step(relay);
	}
	if (send_requests.retries)
	{
		dead_letters_store(relay);
		send_requests.retries = send_retried(relay) || send_waiting(relay);
		more |= send_requests.retries;
	}
	if (more)
		batch_turn_end(began, 0);
	return more;
}
