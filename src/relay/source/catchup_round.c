/*-------------------------------------------------------------------------
 *
 * catchup_round.c
 *	  Publishes the events of one round of catch-up.
 *
 * A round is a loop over batches, each read by a transaction of its own and
 * sent without one.  How far it has come is stored about once a second and as
 * the process ends; catchup_progress.h says what that means.
 *
 * Where deliveries are exact a round is a sequence of Kafka transactions, about
 * as large as those of a stream that lags behind.  Each ends between two
 * PostgreSQL transactions, and its record says how far the round has come
 * then.  So nothing is held up by the end of a long round, and nothing comes
 * twice.  The order is then by transaction (catchup_reader.c), also of the rest
 * of a round that was begun in another way; and a round that was begun by
 * transaction is finished so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/catchup_round.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/database_id.h"
#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "event/event.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/new_topics.h"
#include "relay/delivery/send_sequence.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/settings_watch.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/source/catchup_reader.h"
#include "relay/state/catchup_progress.h"
#include "relay/state/commit.h"
#include "relay/state/event_batch.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"
#include "relay/state/watermark.h"
#include "relay/table/catchup_table.h"
#include "relay/wal/slot_decoder.h"

#define UNSAFE_WAIT_MS 10
#define SAVE_INTERVAL_MS 1000
#define INITIAL_IDS 1024		/* a power of two */

/*
 * What the ledger takes for the end of a round's events: it says nothing about
 * WAL, least of all when the round is one of another database.
 */
#define NO_POSITION ((XLogRecPtr) 1)

/* The round that is under way. */
static CatchupProgress *current = NULL;
static uint64 acknowledged;		/* its events, in this process */
static int64 saved_id;			/* last_id when it was last stored */
static TimestampTz saved_at;

/* What the records of its Kafka transactions say. */
static CatchupProgress recorded;

/* How far sending has come. */
static uint64 sent_xid;			/* transaction of the last event, 0 for none */
static int64 sent_id;			/* id of that */
static int64 complete_id;		/* what last_id will be when all that was sent
								 * is acknowledged, but for an open
								 * transaction */

/*
 * What its last_id is to be once an event is acknowledged, for those that are
 * not, in the order of sending.
 */
static struct
{
	int64	   *ids;
	uint64		size;			/* a power of two */
	uint64		head;
	uint64		tail;
}			under_way;

/* Remembers an id for an event that is about to be sent. */
static void
push_id(int64 id)
{
	if (under_way.ids == NULL)
	{
		under_way.size = INITIAL_IDS;
		under_way.ids = MemoryContextAlloc(TopMemoryContext,
										   INITIAL_IDS * sizeof(int64));
	}
	if (under_way.tail - under_way.head == under_way.size)
	{
		int64	   *ids = MemoryContextAlloc(TopMemoryContext,
											 2 * under_way.size * sizeof(int64));

		for (uint64 n = under_way.head; n != under_way.tail; n++)
			ids[n & (2 * under_way.size - 1)] =
				under_way.ids[n & (under_way.size - 1)];
		pfree(under_way.ids);
		under_way.ids = ids;
		under_way.size *= 2;
	}
	under_way.ids[under_way.tail++ & (under_way.size - 1)] = id;
}

/* Moves the progress over what the ledger says is acknowledged. */
static void
note_progress(Relay *relay)
{
	uint64		events = ledger_position(relay->ledger).events;

	for (; acknowledged < events; acknowledged++)
	{
		int64		id = under_way.ids[under_way.head++ & (under_way.size - 1)];

		current->last_id = Max(current->last_id, id);
		current->done++;
	}
	relay->status.catchup_done = current->done;
	relay->status.catchup_left = current->total - Min(current->done, current->total);
}

/*
 * Brings the status up to date, for whoever shows it while a batch is sent.
 */
void
catchup_show(Relay *relay)
{
	if (current)
		note_progress(relay);
}

/* Stores the progress, but not too often, and after what was refused. */
static void
save_progress(Relay *relay)
{
	TimestampTz now = monotonic_now();

	if (current->last_id == saved_id ||
		!TimestampDifferenceExceeds(saved_at, now, SAVE_INTERVAL_MS))
		return;
	dead_letters_store(relay);
	catchup_save(current);
	saved_id = current->last_id;
	saved_at = now;
}

/*
 * Stores the progress as the process ends, after what was refused is stored.
 */
void
catchup_leave(Relay *relay)
{
	CatchupProgress *progress = current;

	if (progress == NULL)
		return;
	note_progress(relay);
	/* Once only: what ends the process comes here too. */
	current = NULL;
	if (progress->last_id != saved_id)
		catchup_save_at_exit(progress);
}

/*
 * The same for what comes before an event that is not stored and, perhaps,
 * cannot be.
 */
void
catchup_leave_before(Relay *relay, int64 id)
{
	CatchupProgress part;

	if (current == NULL || current->whole)
		return;
	note_progress(relay);
	part = *current;
	part.last_id = Min(part.last_id, id - 1);
	if (part.last_id <= saved_id)
		return;
	catchup_save_at_exit(&part);
	saved_id = part.last_id;
}

/*
 * Commits the open Kafka transaction, with all transactions that were sent and
 * nothing else.  Its record says that the round has come this far.
 */
static void
commit_part(Relay *relay)
{
	note_progress(relay);
	recorded.last_id = complete_id;
	recorded.done = current->done + ledger_position(relay->ledger).outstanding;
	exactly_once_commit(relay, relay->exact->set.lsn);
	note_progress(relay);
	current->last_id = complete_id;
}

/* The next event is one of another transaction. */
static void
end_transaction(Relay *relay)
{
	if (sent_xid == 0)
		return;
	complete_id = sent_id;
	if (exactly_once_is_due(relay, false))
		commit_part(relay);
}

/* Sends a batch, until the pipeline breaks. */
static void
send_batch(Relay *relay, const EventBatch *batch, MemoryContext scratch)
{
	for (int i = 0; i < batch->size && !relay->broken; i++)
	{
		const Event *event = batch->places[i].event;
		Commit		commit = {0};
		MemoryContext old;

		if (!current->whole)
			complete_id = event->id;
		else if (event->xid != sent_xid)
			end_transaction(relay);
		sent_xid = event->xid;
		sent_id = event->id;
		push_id(complete_id);
		commit.time = event->created_at;	/* that of the commit is not known */
		commit.send_time = !capture_is_polling();
		old = MemoryContextSwitchTo(scratch);
		sender_event(relay, event, &commit);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);
	}
}

/*
 * Starts over when the settings have changed, or to let go of topics.  The next
 * relay goes on with the round.  What is committed after the change is not part
 * of it.
 */
static void
check_settings(Relay *relay)
{
	if (settings_watch_outdated(relay))
		ending_restart();
}

/* Sends what is left of the present round, until the pipeline breaks. */
static void
send_events(Relay *relay, const CatchupRange *range, EventBatch *batch,
			MemoryContext scratch)
{
	CatchupReader *reader = catchup_reader_open(current, range,
												GetMemoryChunkContext(batch));

	sent_xid = 0;
	complete_id = current->last_id;
	while (!relay->broken && catchup_reader_next(reader, batch))
	{
		send_batch(relay, batch, scratch);
		new_topics_step(relay, false);
		sender_poll(relay);
		note_progress(relay);
		save_progress(relay);
		relay_show(relay);
		CHECK_FOR_INTERRUPTS();
		check_settings(relay);
	}
	catchup_reader_close(reader);
}

/*
 * What has to be safe before anything of the present round is sent: all WAL so
 * far.  Of a round that Kafka tells of, what had to be when it began: our own
 * bookkeeping since then is of no interest to who takes over from us.
 */
static XLogRecPtr
needed_position(const Relay *relay)
{
	const CatchupProgress *known = relay->exact ? relay->exact->set.catchup : NULL;

	if (known && known->database_id == current->database_id &&
		strcmp(known->snapshot, current->snapshot) == 0)
		return known->safe_lsn;
	return slot_decoder_wal_end();
}

/*
 * Waits until WAL up to a position is safe: on disk, and on synchronous
 * standbys.  What a snapshot shows need not be.
 */
static void
wait_until_safe(Relay *relay, XLogRecPtr position)
{
	XLogFlush(position);
	while (slot_decoder_limit() < position)
	{
		relay_wait(relay, UNSAFE_WAIT_MS);
		sender_serve(relay);
	}
}

/*
 * Everything of a round has been sent: where deliveries are exact, commits what
 * is not yet.  Of our own events the record says then that all that the
 * snapshot shows is published, and of those of an adopted database that the
 * round has come to its end.
 */
static void
commit_round(Relay *relay, const CatchupProgress *round)
{
	Watermark	reached;

	if (relay->exact == NULL)
		return;
	if (round->database_id != own_database_id())
	{
		recorded.last_id = PG_INT64_MAX;
		exactly_once_commit(relay, relay->exact->set.lsn);
		return;
	}
	reached.lsn = round->lsn;
	reached.snapshot = round->snapshot;
	relay->exact->set.catchup = NULL;
	exactly_once_reached(relay, &reached);
}

/* Sends all events of the present round and waits for Kafka. */
static void
send_round(Relay *relay, const CatchupRange *range, MemoryContext context)
{
	EventBatch *batch = event_batch_create(context);
	MemoryContext scratch = AllocSetContextCreate(context, "outbox catch-up",
												  ALLOCSET_DEFAULT_SIZES);

	acknowledged = 0;
	note_progress(relay);
	current->safe_lsn = needed_position(relay);
	wait_until_safe(relay, current->safe_lsn);
	recorded = *current;
	if (relay->exact)
		relay->exact->set.catchup = &recorded;
	do
	{
		sender_begin(relay);
		/* What a broken pipeline left behind is sent again. */
		under_way.head = under_way.tail = 0;
		send_events(relay, range, batch, scratch);
	} while (!sender_finish(relay) && (note_progress(relay), true));
	commit_round(relay, current);
	note_progress(relay);
	ledger_close_commit(relay->ledger, NO_POSITION);
	dead_letters_store(relay);
}

/*
 * The relay before this one ended with an error, perhaps because it could not
 * store how far it had come.  Then nothing is sent before that can be stored,
 * and what was sent is stored before anything else, or each relay would send it
 * again.
 */
static void
prove_progress(void)
{
	if (ending_is_cautious())
		catchup_save(current);
}

/*
 * Publishes a round, or what is left of it, and waits for Kafka.  Returns the
 * number of events.
 */
uint64
catchup_publish(Relay *relay, CatchupProgress *round)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox catch-up round",
												  ALLOCSET_DEFAULT_SIZES);
	CatchupRange range;
	uint64		before = round->done;

	check_settings(relay);
	if (relay->exact && !round->whole)
	{
		round->whole = true;
		round->from_id = round->last_id;
	}
	catchup_count(round, &range, context);
	if (before > 0)
		ereport(LOG,
				(errmsg("outbox relay goes on with a catch-up"),
				 errdetail(UINT64_FORMAT " of its " UINT64_FORMAT " events are on Kafka.",
						   before, round->total)));
	if (round->total > round->done)
	{
		current = round;
		saved_id = round->last_id;
		saved_at = monotonic_now();
		relay->status.catching_up = true;
		prove_progress();
		send_round(relay, &range, context);
		prove_progress();
		relay->status.catching_up = false;
		current = NULL;
	}
	else
		commit_round(relay, round);
	MemoryContextDelete(context);
	return round->done - before;
}
