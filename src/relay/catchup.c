/*-------------------------------------------------------------------------
 *
 * catchup.c
 *	  Publishes events out of the table, where no slot will deliver them.
 *
 * A snapshot decides what is new, never an id: a round publishes what its
 * snapshot shows and the watermark does not, in the order of ids, and then the
 * snapshot becomes the watermark.  An event that was numbered early and
 * committed late is as new as any other.
 *
 * Before a slot is created there is a round without one, so that no WAL is
 * held for what waited long; then another with the snapshot that shows exactly
 * what committed before the slot's first position.  The slot lasts only from
 * then on: when the relay dies before, the next one begins again, and a
 * missing slot is never a silent fresh start.
 *
 * Or it is done again and again, without any slot: the polling publisher.
 *
 * A round is a loop over batches, each read by a transaction of its own and
 * sent without one.  How far it has come is stored about once a second and as
 * the process ends; see catchup.h for what that means, and why rounds that are
 * broken off do not pile up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/catchup.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/home.h"
#include "base/steady.h"
#include "base/worker.h"
#include "relay/catchup_store.h"
#include "relay/deadletter.h"
#include "relay/decode.h"
#include "relay/exactly_once.h"
#include "relay/identity.h"
#include "relay/watermark.h"

#define UNSAFE_WAIT_MS 10
#define SAVE_INTERVAL_MS 1000
#define INITIAL_IDS 1024		/* a power of two */

/* A snapshot that shows every transaction that there can be. */
#define EVERYTHING "9223372036854775807:9223372036854775807:"

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

/* Ids of its events that are not acknowledged, in the order of sending. */
static struct
{
	int64	   *ids;
	uint64		size;			/* a power of two */
	uint64		head;
	uint64		tail;
}			under_way;

/* Remembers the id of an event that is about to be sent. */
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
		current->last_id = under_way.ids[under_way.head++ & (under_way.size - 1)];
		current->done++;
	}
	relay->status.catchup_done = current->done;
	relay->status.catchup_left = current->total - Min(current->done, current->total);
}

/*
 * How far the present round has come, as far as Kafka has acknowledged it;
 * NULL when there is no round.
 */
const CatchupProgress *
catchup_progress(Relay *relay)
{
	if (current)
		note_progress(relay);
	return current;
}

/* Stores the progress, but not too often, and after what was refused. */
static void
save_progress(Relay *relay)
{
	TimestampTz now = steady_now();

	if (current->last_id == saved_id ||
		!TimestampDifferenceExceeds(saved_at, now, SAVE_INTERVAL_MS))
		return;
	deadletter_store(relay);
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

/* Sends a batch, until the pipeline breaks. */
static void
send_batch(Relay *relay, const EventBatch *batch, MemoryContext scratch)
{
	MemoryContext old = MemoryContextSwitchTo(scratch);

	for (int i = 0; i < batch->size && !relay->broken; i++)
	{
		const Event *event = &batch->events[i];
		Commit		commit = {0};

		commit.time = event->created_at;	/* that of the commit is not known */
		push_id(event->id);
		sender_event(relay, event, &commit);
		MemoryContextReset(scratch);
	}
	MemoryContextSwitchTo(old);
}

/* Sends what is left of the present round, until the pipeline breaks. */
static void
send_events(Relay *relay, const CatchupRange *range, EventBatch *batch,
			MemoryContext scratch)
{
	int64		after = current->last_id;

	while (!relay->broken && catchup_read(current, range, after, batch))
	{
		send_batch(relay, batch, scratch);
		after = batch->events[batch->size - 1].id;
		sender_poll(relay);
		note_progress(relay);
		save_progress(relay);
		relay_show(relay);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Waits until everything written to WAL so far is safe: on disk, and on
 * synchronous standbys.  What a snapshot shows need not be.
 */
static void
wait_until_safe(Relay *relay)
{
	XLogRecPtr	position = decode_wal_end();

	XLogFlush(position);
	while (decode_limit() < position)
		relay_wait(relay, UNSAFE_WAIT_MS);
}

/*
 * Everything of a round has been sent.  Where deliveries are exact it is
 * published only now, in one Kafka transaction.  Its record tells of our own
 * events; those of an adopted database may come twice after a crash.
 */
static void
commit_round(Relay *relay, const CatchupProgress *round)
{
	Watermark	reached;

	if (relay->exact == NULL)
		return;
	if (round->home != home_id())
	{
		exactly_once_commit(relay, relay->exact->set.lsn);
		return;
	}
	reached.lsn = round->lsn;
	reached.snapshot = round->snapshot;
	exactly_once_reached(relay, &reached);
}

/* Sends all events of the present round and waits for Kafka. */
static void
send_round(Relay *relay, const CatchupRange *range, MemoryContext context)
{
	EventBatch *batch = MemoryContextAlloc(context, sizeof(EventBatch));
	MemoryContext scratch = AllocSetContextCreate(context, "outbox catch-up",
												  ALLOCSET_DEFAULT_SIZES);

	batch->context = AllocSetContextCreate(context, "outbox catch-up batch",
										   ALLOCSET_DEFAULT_SIZES);
	acknowledged = 0;
	note_progress(relay);
	wait_until_safe(relay);
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
	deadletter_store(relay);
}

/*
 * Publishes a round, or what is left of it, and waits for Kafka.  Returns the
 * number of events.
 */
static uint64
publish_round(Relay *relay, CatchupProgress *round)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox catch-up round",
												  ALLOCSET_DEFAULT_SIZES);
	CatchupRange range;
	uint64		before = round->done;

	catchup_count(round, &range, context);
	if (round->total > round->done)
	{
		current = round;
		saved_id = round->last_id;
		saved_at = steady_now();
		relay->status.catching_up = true;
		send_round(relay, &range, context);
		relay->status.catching_up = false;
		current = NULL;
	}
	else
		commit_round(relay, round);
	MemoryContextDelete(context);
	return round->done - before;
}

/* A new round; everything is in TopMemoryContext. */
static CatchupProgress *
new_round(int32 home, char *snapshot, XLogRecPtr lsn)
{
	CatchupProgress *round = MemoryContextAllocZero(TopMemoryContext,
													sizeof(CatchupProgress));

	round->home = home;
	round->snapshot = snapshot;
	round->lsn = lsn;
	round->last_id = PG_INT64_MIN;
	return round;
}

static void
free_round(CatchupProgress *round)
{
	pfree(round->snapshot);
	pfree(round);
}

/* Finishes the round of a home that an earlier relay began. */
static void
finish_stored_round(Relay *relay, int32 home)
{
	CatchupProgress *round = catchup_load(home, TopMemoryContext);

	if (round == NULL)
		return;
	publish_round(relay, round);
	catchup_settle(round, false);
	free_round(round);
}

/* Publishes what adopted databases had not, one after the other. */
static void
publish_adopted(Relay *relay)
{
	int32		home;

	while (identity_next_adopted(&home))
	{
		CatchupProgress *round;

		finish_stored_round(relay, home);
		round = new_round(home, MemoryContextStrdup(TopMemoryContext, EVERYTHING),
						  InvalidXLogRecPtr);
		publish_round(relay, round);
		catchup_settle(round, true);
		free_round(round);
	}
}

/* What others left, once in the life of the process. */
static void
publish_legacy(Relay *relay)
{
	static bool done = false;

	if (done)
		return;
	publish_adopted(relay);
	finish_stored_round(relay, home_id());
	done = true;
}

/* A round of this database with a fresh snapshot. */
static CatchupProgress *
fresh_round(void)
{
	XLogRecPtr	lsn = decode_wal_end();
	char	   *snapshot;

	worker_begin_sql();
	snapshot = watermark_current_snapshot(TopMemoryContext);
	worker_commit_sql();
	return new_round(home_id(), snapshot, lsn);
}

/* Creates the slot; returns the round that goes with it. */
static CatchupProgress *
slot_round(void)
{
	char	   *snapshot;

	PushActiveSnapshot(decode_slot_create());
	SPI_connect();
	snapshot = watermark_current_snapshot(TopMemoryContext);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	decode_slot_unpin();
	return new_round(home_id(), snapshot, decode_confirmed());
}

/*
 * One look at the table: publishes everything that has committed and no
 * watermark shows.  Returns the number of events.  Needs a producer, no slot.
 */
uint64
catchup_poll(Relay *relay)
{
	CatchupProgress *round;
	uint64		sent;

	publish_legacy(relay);
	round = fresh_round();
	sent = publish_round(relay, round);
	if (sent > 0)
		catchup_settle(round, false);
	shmem_relay_polled(round->snapshot);
	free_round(round);
	return sent;
}

/*
 * Creates the slot and publishes everything before it that no watermark
 * shows.  Returns when Kafka has acknowledged all of it and the slot is kept.
 * Needs a producer.
 */
void
catchup_run(Relay *relay)
{
	CatchupProgress *round;

	relay->working_state = RELAY_CATCHING_UP;
	/* A slot holds WAL: none before it can be of use. */
	sender_wait_connected(relay);
	relay_work(relay);
	catchup_poll(relay);

	round = slot_round();
	publish_round(relay, round);
	catchup_settle(round, false);
	free_round(round);
	/* With the slot goes the right to forget what it does not hold. */
	XLogFlush(XactLastCommitEnd);
	decode_slot_keep();
}
