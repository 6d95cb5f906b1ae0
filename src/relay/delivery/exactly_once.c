/*-------------------------------------------------------------------------
 *
 * exactly_once.c
 *	  Kafka transactions of whole PostgreSQL transactions.
 *
 * A Kafka transaction begins with the first event that is sent and ends
 * between two records of WAL, so it never splits a PostgreSQL transaction.  Nor
 * does it when events come out of the table (catchup_round.c).  The last thing
 * in it is a record in the progress topic: the position that decoding has
 * reached and, for those who have no WAL to go by, the exact set of
 * transactions that are published then (published_set.h).  Either all of it is
 * committed or nothing.
 *
 * The set consists of a snapshot, the base, and of the transactions that were
 * sent and that it does not show.  Once a second a new base is proposed, in
 * the way of a watermark: a snapshot, and then the WAL position.  When
 * decoding has passed that position everything that the snapshot shows has
 * been sent, and it becomes the base.  When the Kafka transaction that carries
 * it is committed, it is also stored as the watermark.  While there is a
 * backlog, that position is far ahead; then the snapshots that the server
 * itself writes to the WAL, four a minute at least, keep the list short.
 *
 * An acknowledgement of the broker counts for nothing before the commit.  So
 * the ledger learns of all of a transaction's events at once.  When anything
 * goes wrong, the process starts over from the last commit: the next one has
 * the coordinator abort what is open, or learns from the progress topic that
 * it was committed (relay_takeover.c).  It never guesses.
 *
 * A commit takes some 10 ms, or some round trips, during which nothing can be
 * sent.  So transactions are at least outbox.transaction_interval apart, and
 * when there is a backlog they go on until they are large.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/exactly_once.h"

#include "access/transam.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "event/event.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_transaction.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once_stall.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/fencing.h"
#include "relay/delivery/new_topics.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/state/commit.h"
#include "relay/state/ledger.h"
#include "relay/state/published_set.h"
#include "relay/state/published_set_json.h"
#include "relay/state/relay.h"
#include "relay/state/suspect_topics.h"
#include "relay/state/watermark.h"
#include "relay/table/watermark_table.h"
#include "relay/wal/running_xacts.h"
#include "relay/wal/slot_decoder.h"

#define PROPOSAL_INTERVAL_MS 1000
#define BACKLOG_FACTOR 10		/* times the interval, while there is more */
#define FULL_BYTES (64 * 1024 * 1024)
#define MESSAGE_BYTES 100		/* what a message takes beside its payload */
#define MAX_RECORD_BYTES 900000 /* or half of what producer and topic take */
#define LEAVE_MS 500			/* for an abort as the process ends */
#define SOON_MS 1000			/* for which messages may wait for the end */
#define RECORD_OFFSETS 2		/* a record, and Kafka's that ends it */

/* Begins a Kafka transaction. */
static void
begin(Relay *relay)
{
	ExactlyOnce *exact = relay->exact;

	if (transaction_begin(relay->producer) != TRANSACTION_DONE)
		exactly_once_start_over(relay);
	exact->open = true;
	exact->opened_at = monotonic_now();
	exact->sent_bytes = exact->sent = exact->events = exact->bytes = 0;
}

/*
 * An event is about to be sent.  Commit is zero for one out of the table,
 * which a later snapshot will show.
 */
void
exactly_once_event(Relay *relay, const Event *event, const Commit *commit)
{
	ExactlyOnce *exact = relay->exact;

	if (!exact->open)
		begin(relay);
	exact->sent_bytes += event->payload.len + MESSAGE_BYTES;
	if (!XLogRecPtrIsInvalid(commit->end))
		published_set_add(&exact->set, event->xid, TopMemoryContext);
}

/*
 * A broker has acknowledged an event, or a progress record.
 */
void
exactly_once_delivered(Relay *relay, const Delivery *delivery)
{
	ExactlyOnce *exact = relay->exact;

	if (delivery->opaque != PROGRESS_OPAQUE)
	{
		exact->events++;
		exact->bytes += delivery->bytes;
	}
	else if (delivery->offset >= 0)
	{
		exact->topic_is_new |= delivery->offset <= exact->record_offset;
		exact->has_gap |= delivery->offset > exact->record_offset +
			(exact->claimed ? RECORD_OFFSETS : 1);
		exact->record_offset = delivery->offset;
	}
}

/*
 * Shall the open transaction be committed before more is decoded?
 */
bool
exactly_once_is_full(const Relay *relay)
{
	return relay->exact && relay->exact->open &&
		relay->exact->sent_bytes >= FULL_BYTES;
}

/*
 * Sends the progress record, the last message of its transaction, without
 * waiting for its delivery.
 */
static void
send_record(Relay *relay)
{
	ExactlyOnce *exact = relay->exact;
	StringInfoData record;
	Message		message = {0};

	initStringInfo(&record);
	published_set_encode(&record, &exact->set,
						 Min(MAX_RECORD_BYTES,
							 Min(producer_max_bytes(relay->producer),
								 exact->topic_max_bytes) / 2));
	message.topic = producer_topic(relay->producer, exact->topic);
	if (message.topic == NULL)
		exactly_once_start_over(relay);
	message.key.data = exact->topic;
	message.key.len = strlen(exact->topic);
	message.value.data = record.data;
	message.value.len = record.len;
	message.timestamp_ms = TIMESTAMP_NOW;
	message.opaque = PROGRESS_OPAQUE;
	message.first_partition = true;
	if (sender_leave_message(relay, &message) != SEND_QUEUED)
		exactly_once_start_over(relay);
	producer_hurry(relay->producer);
	pfree(record.data);
}

/*
 * The progress topic has begun anew: somebody has deleted it, and a broker made
 * another one at once, probably not as it must be.  The next process finds out.
 */
static void
leave_new_topic(Relay *relay)
{
	ereport(LOG,
			(errmsg("outbox relay starts over: the topic \"%s\" was deleted",
					relay->exact->topic)));
	ending_restart_later();
}

/*
 * Ends the open Kafka transaction with a record of the set, and commits it.
 */
void
exactly_once_seal(Relay *relay)
{
	send_record(relay);
	sender_drain(relay);
	if (relay->exact->topic_is_new)
		leave_new_topic(relay);
	if (relay->exact->has_gap)
		fencing_check_successor(relay);
	relay->exact->has_gap = false;
	transaction_start(relay->producer, TRANSACTION_COMMIT, -1);
	if (exactly_once_wait(relay, monotonic_now()) != TRANSACTION_DONE)
		exactly_once_start_over(relay);
}

/*
 * Commits the open transaction, if there is one: everything that was committed
 * up to position, and nothing after it, is published then.  Between records
 * only.
 *
 * The recorded position never goes back, though decoding does when it begins
 * anew, at the slot's restart position: what was committed before is still
 * published, and a record that said less would be taken for an older one.
 */
void
exactly_once_commit(Relay *relay, XLogRecPtr position)
{
	ExactlyOnce *exact = relay->exact;

	new_topics_flush(relay);
	if (!exact->open)
		return;
	exact->ended_at = monotonic_now();
	exact->set.lsn = Max(exact->set.lsn, position);
	/* The record passes what was refused, too. */
	dead_letters_store(relay);
	exactly_once_seal(relay);

	exact->open = false;
	relay->patience = FIRST_PATIENCE_MS;
	ledger_acknowledge_all(relay->ledger);
	relay->status.events += exact->events;
	relay->status.bytes += exact->bytes;
	suspect_topics_clear_taken();
	ending_progressed();
	relay_work(relay);
}

/*
 * An event that may be refused is about to be sent.  If it is the first of its
 * transaction, sends a record before it: librdkafka cannot abort a transaction
 * of which the coordinator has not heard.
 */
void
exactly_once_expect_refusal(Relay *relay)
{
	if (relay->exact->sent != 0)
		return;
	send_record(relay);
	sender_await_deliveries(relay);
}

/*
 * Is there time in the open transaction for what makes it last?
 */
bool
exactly_once_has_time(const Relay *relay)
{
	return !relay->exact->open ||
		!TimestampDifferenceExceeds(relay->exact->opened_at, monotonic_now(),
									producer_transaction_ms(relay->producer) / 3);
}

/*
 * An event was refused and set aside.  If nothing else is in the open
 * transaction, has it aborted, and returns true: one can go on.
 */
bool
exactly_once_drop(Relay *relay)
{
	if (relay->exact->sent != 1 || producer_is_fatal(relay->producer))
		return false;
	transaction_start(relay->producer, TRANSACTION_ABORT, -1);
	if (exactly_once_wait(relay, monotonic_now()) != TRANSACTION_DONE)
		exactly_once_start_over(relay);
	relay->exact->open = false;
	return true;
}

/* A snapshot becomes the base, unless the base is later. */
static void
take_base(ExactlyOnce *exact, const char *snapshot, XLogRecPtr lsn)
{
	if (lsn <= exact->base_lsn)
		return;
	published_set_rebase(&exact->set, snapshot, TopMemoryContext);
	exact->base_lsn = lsn;
}

/* A proposal that decoding has passed becomes the base. */
static void
take_proposal(ExactlyOnce *exact)
{
	Watermark  *proposal = exact->proposal;
	Watermark  *running = running_take();

	if (running)
	{
		take_base(exact, running->snapshot, running->lsn);
		pfree(running->snapshot);
		pfree(running);
	}
	if (proposal == NULL || slot_decoder_position() < proposal->lsn)
		return;
	take_base(exact, proposal->snapshot, proposal->lsn);
	pfree(proposal->snapshot);
	pfree(proposal);
	exact->proposal = NULL;
}

/* Proposes a new base when there is news. */
static void
propose(Relay *relay)
{
	ExactlyOnce *exact = relay->exact;
	TimestampTz now = monotonic_now();

	if (exact->proposal ||
		(!exact->open && relay->status.events == exact->events_proposed) ||
		!TimestampDifferenceExceeds(exact->proposed_at, now, PROPOSAL_INTERVAL_MS))
		return;
	exact->proposal = watermark_propose(TopMemoryContext);
	exact->proposed_at = now;
	exact->events_proposed = relay->status.events + (exact->open ? 1 : 0);
}

/*
 * Stores the set as a watermark, once all that the base shows is on Kafka.
 * The base alone would not do: a transaction whose commit record came before
 * the base's position, and which still ran for its snapshot, is published too.
 */
static void
store_watermark(Relay *relay)
{
	ExactlyOnce *exact = relay->exact;
	Watermark	watermark;

	if (exact->open || exact->base_lsn <= exact->stored_lsn)
		return;
	watermark.lsn = Max(exact->base_lsn, exact->set.lsn);
	watermark.snapshot = published_set_fold(&exact->set);
	watermark_store(&watermark);
	pfree(watermark.snapshot);
	exact->stored_lsn = exact->base_lsn;
}

/* When the open transaction is to be committed. */
static TimestampTz
due_at(const ExactlyOnce *exact, bool idle)
{
	if (idle)
		return TimestampTzPlusMilliseconds(exact->ended_at,
										   outbox_transaction_interval);
	return TimestampTzPlusMilliseconds(exact->opened_at,
									   outbox_transaction_interval * BACKLOG_FACTOR);
}

/*
 * Is there an open transaction that is to be committed now?  Idle says that
 * there is nothing more to send at the moment.
 */
bool
exactly_once_is_due(const Relay *relay, bool idle)
{
	return relay->exact && relay->exact->open &&
		(exactly_once_is_full(relay) ||
		 monotonic_now() >= due_at(relay->exact, idle));
}

/*
 * Between records: does what is due.  Idle says that there is no more WAL to
 * decode at the moment.
 */
void
exactly_once_step(Relay *relay, bool idle)
{
	take_proposal(relay->exact);
	if (exactly_once_is_due(relay, idle))
		exactly_once_commit(relay, slot_decoder_position());
	store_watermark(relay);
	propose(relay);
}

/*
 * How long to wait for more, given how long one would without a transaction.
 */
long
exactly_once_idle_time(const Relay *relay, long timeout_ms)
{
	if (relay->exact == NULL || !relay->exact->open)
		return timeout_ms;
	return Min(timeout_ms,
			   TimestampDifferenceMilliseconds(monotonic_now(),
											   due_at(relay->exact, true)));
}

/*
 * Will the open transaction, if there is one, be committed so soon that its
 * messages may as well wait for that?
 */
bool
exactly_once_ends_soon(const Relay *relay)
{
	return exactly_once_idle_time(relay, SOON_MS + 1) <= SOON_MS;
}

/*
 * The position to commit something at that is not new: how far decoding has
 * come, or what was reached last without it.
 */
XLogRecPtr
exactly_once_position(const Relay *relay)
{
	return slot_decoder_is_open() ? slot_decoder_position() : relay->exact->set.lsn;
}

/*
 * All that a snapshot out of the table shows has been sent: commits it.  What
 * the snapshot shows is then exactly what is published.
 */
void
exactly_once_reached(Relay *relay, const Watermark *reached)
{
	ExactlyOnce *exact = relay->exact;

	if (exact == NULL)
		return;
	published_set_rebase(&exact->set, reached->snapshot, TopMemoryContext);
	exact->base_lsn = exact->stored_lsn = reached->lsn;
	exactly_once_commit(relay, reached->lsn);
}

/*
 * The process ends in an orderly way: has an open transaction aborted, so that
 * consumers need not wait for the next relay, or for its time-out.  Waits a
 * moment at most.
 */
void
exactly_once_leave(Relay *relay)
{
	if (relay->exact && relay->exact->open && relay->producer)
		transaction_leave(relay->producer, LEAVE_MS);
}
