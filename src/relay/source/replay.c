/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Sends published events again, on request.
 *
 * outbox.replay() leaves a row in outbox.replay_job.  Between two rounds of
 * live traffic the relay sends a batch of the oldest job's events, out of the
 * table, in the order of ids, each with the header "replay".  When the broker
 * has acknowledged the batch, the job's position is stored, so a relay that
 * starts over repeats one batch at most.
 *
 * When deliveries are exact, a Kafka transaction holds as many batches as fit
 * into its usual time, and its progress record tells the job's position as
 * well.  So nothing is repeated.
 *
 * No transaction of ours is open while events are sent: that may take as long
 * as Kafka is away, and what Kafka refuses is written by one of its own.
 *
 * A batch is only sent when nothing else is in flight; see batch_turn.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/replay.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "event/event.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/send_sequence.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/source/batch_turn.h"
#include "relay/state/commit.h"
#include "relay/state/event_batch.h"
#include "relay/state/ledger.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"
#include "relay/state/send_requests.h"
#include "relay/wal/slot_decoder.h"

/* The columns are those of EventColumn, in their order. */
#define NEXT_EVENTS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.database_id, e.id_given" \
	" FROM outbox.event e, outbox.replay_job j" \
	" WHERE j.id OPERATOR(pg_catalog.=) $1" \
	" AND e.id OPERATOR(pg_catalog.>) $3" \
	" AND e.id OPERATOR(pg_catalog.<=) j.through_id" \
	" AND e.created_at OPERATOR(pg_catalog.>=) j.since" \
	" AND e.created_at OPERATOR(pg_catalog.<=) j.until" \
	" AND (j.aggregate_type IS NULL" \
	"      OR e.aggregate_type OPERATOR(pg_catalog.=) j.aggregate_type)" \
	" AND pg_catalog.pg_visible_in_snapshot(e.xid, j.published)" \
	" AND e.database_id OPERATOR(pg_catalog.=) outbox.database_id()" \
	" AND NOT EXISTS (SELECT FROM outbox.dead_letter d" \
	"                 WHERE d.id OPERATOR(pg_catalog.=) e.id" \
	"                 AND d.database_id OPERATOR(pg_catalog.=) e.database_id)" \
	" AND NOT EXISTS (SELECT FROM outbox.held_event h" \
	"                 WHERE h.id OPERATOR(pg_catalog.=) e.id" \
	"                 AND h.database_id OPERATOR(pg_catalog.=) e.database_id)" \
	" AND NOT EXISTS (SELECT FROM outbox.discarded_event x" \
	"                 WHERE x.id OPERATOR(pg_catalog.=) e.id" \
	"                 AND x.database_id OPERATOR(pg_catalog.=) e.database_id)" \
	" ORDER BY e.id LIMIT $2"

/* How long new events have their turn, at least, behind a batch. */
#define LEAST_PAUSE_MS 100

/* The oldest job that is not finished. */
static struct
{
	int64		id;				/* 0: there is none */
	int64		last_id;		/* the last event that was sent, */
	int64		sent;			/* and how many it came to */
}			job;

/* Looks for the job.  Needs SPI. */
static void
find_job(void)
{
	int64	   *fields[] = {&job.id, &job.last_id, &job.sent};
	bool		isnull;

	job.id = 0;
	if (!worker_run_sql("SELECT id, last_id, sent FROM outbox.replay_job"
						" WHERE finished_at IS NULL ORDER BY id LIMIT 1",
						0, NULL, NULL, SPI_OK_SELECT))
		return;
	for (int i = 0; i < lengthof(fields); i++)
		*fields[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												 SPI_tuptable->tupdesc, i + 1,
												 &isnull));
}

/*
 * Stores how far the job has come, after what Kafka refused of it.  One that
 * was deleted is cancelled.
 */
static void
store_progress(Relay *relay)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		args[3] = {Int64GetDatum(job.id), Int64GetDatum(job.last_id),
	Int64GetDatum(job.sent)};

	dead_letters_store(relay);
	worker_begin_sql();
	worker_run_sql("UPDATE outbox.replay_job SET last_id = $2, sent = $3"
				   " WHERE id OPERATOR(pg_catalog.=) $1", 3, types, args, SPI_OK_UPDATE);
	worker_commit_sql();
}

static void
send_event(Relay *relay, const Event *original, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Commit		commit = {0};
	Event		event = *original;

	event.replay = true;
	commit.time = event.created_at;
	commit.send_time = true;
	sender_event(relay, &event, &commit);
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * Sends a batch and waits until Kafka has taken or refused each event of it.
 */
static void
send_batch(Relay *relay, const EventBatch *batch)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox replay",
												  ALLOCSET_DEFAULT_SIZES);

	do
		for (uint64 i = sender_begin(relay); i < batch->size && !relay->broken; i++)
			send_event(relay, &batch->events[i], context);
	while (!sender_finish(relay));
	ledger_close_commit(relay->ledger, slot_decoder_position());
	MemoryContextDelete(context);
	job.last_id = batch->events[batch->size - 1].id;
	job.sent += batch->size;
}

/*
 * Events are read in the order of an index, from where the last batch ended.
 * The planner, which knows little of a table that nobody has analyzed, might
 * sort all that are left for each batch.  Until the transaction ends.
 */
static void
forbid_sorting(void)
{
	static const char *const settings[] = {"enable_sort", "enable_bitmapscan"};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Reads the next batch of the job, in a transaction of its own.  Returns false
 * when there is none.  At first, looks for the job, and finishes it then.
 */
static bool
read_batch(EventBatch *batch, bool at_first)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		args[3];

	event_batch_reset(batch);
	worker_begin_sql();
	forbid_sorting();
	if (at_first)
		find_job();
	/* The last is a constant, so that each batch is found by the index. */
	args[0] = Int64GetDatum(job.id);
	args[1] = Int64GetDatum(ending_batch_events());
	args[2] = Int64GetDatum(job.last_id);
	if (job.id != 0 && worker_run_sql(NEXT_EVENTS, 3, types, args, SPI_OK_SELECT))
		for (uint64 row = 0; row < SPI_processed && event_batch_has_room(batch); row++)
			(void) event_batch_add(batch, row);
	else if (job.id != 0 && at_first)
		worker_run_sql("UPDATE outbox.replay_job SET finished_at = pg_catalog.clock_timestamp()"
					   " WHERE id OPERATOR(pg_catalog.=) $1", 1, types, args,
					   SPI_OK_UPDATE);
	worker_commit_sql();
	return batch->size > 0;
}

/*
 * The rest of the work of replay_step() when deliveries are exact: sends that
 * batch and more, and commits them together.
 */
static void
send_transaction(Relay *relay, EventBatch *batch)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(),
													outbox_transaction_interval);
	PublishedSet *set = &relay->exact->set;

	do
		send_batch(relay, batch);
	while (monotonic_now() < until && read_batch(batch, false));
	set->replay_job = job.id;
	set->replay_id = job.last_id;
	set->replay_sent = job.sent;
	exactly_once_commit(relay, exactly_once_position(relay));
}

/* Is it time for a batch?  Waits for what is in flight then. */
static bool
may_send(Relay *relay)
{
	if (!batch_turn_is_due(relay))
		return false;
	sender_drain(relay);
	dead_letters_store(relay);
	return true;
}

/*
 * Sends a batch of events that are to be replayed, if there are any and it is
 * time for one.  Returns whether there may be more.  Call between records.
 */
bool
replay_step(Relay *relay)
{
	static EventBatch *batch = NULL;
	TimestampTz began = monotonic_now();

	if (!send_requests.replays || !may_send(relay))
		return false;
	if (batch == NULL)
		batch = event_batch_create(TopMemoryContext);
	if (read_batch(batch, true))
	{
		/* What cannot be stored would be sent again by each relay. */
		if (ending_is_cautious())
			store_progress(relay);
		if (relay->exact)
			send_transaction(relay, batch);
		else
			send_batch(relay, batch);
		store_progress(relay);
		ending_batch_done();
		batch_turn_end(began, LEAST_PAUSE_MS);
	}
	send_requests.replays = job.id != 0;
	return send_requests.replays;
}
