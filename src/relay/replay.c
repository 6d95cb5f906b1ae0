/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Sends published events again, on request.
 *
 * outbox.replay() leaves a row in outbox.replay_job.  Between two rounds of
 * live traffic the relay sends a batch of the oldest job's events, out of the
 * table, in the order of ids, each with the header "replay".  When the broker
 * has acknowledged the batch, the job's position is stored before the next one
 * begins, so a relay that starts over repeats one batch at most.
 *
 * When deliveries are exact, a Kafka transaction holds as many batches as fit
 * into its usual time, and its progress record tells the job's position as
 * well.  So nothing is repeated.
 *
 * A batch is only sent when nothing else is in flight: live events never wait
 * for more than one batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/replay.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/guc.h"
#include "base/steady.h"
#include "base/worker.h"
#include "relay/decode.h"
#include "relay/exactly_once.h"

#define BATCH_EVENTS 500

/* The columns are those of EventColumn, in their order. */
#define NEXT_EVENTS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.home" \
	" FROM outbox.event e, outbox.replay_job j" \
	" WHERE j.id OPERATOR(pg_catalog.=) $1" \
	" AND e.id OPERATOR(pg_catalog.>) $3" \
	" AND e.id OPERATOR(pg_catalog.<=) j.through_id" \
	" AND e.created_at OPERATOR(pg_catalog.>=) j.since" \
	" AND e.created_at OPERATOR(pg_catalog.<=) j.until" \
	" AND (j.aggregate_type IS NULL" \
	"      OR e.aggregate_type OPERATOR(pg_catalog.=) j.aggregate_type)" \
	" AND pg_catalog.pg_visible_in_snapshot(e.xid, j.published)" \
	" AND e.home OPERATOR(pg_catalog.=) outbox.home()" \
	" AND NOT EXISTS (SELECT FROM outbox.dead_letter d" \
	"                 WHERE d.id OPERATOR(pg_catalog.=) e.id" \
	"                 AND d.home OPERATOR(pg_catalog.=) e.home)" \
	" AND NOT EXISTS (SELECT FROM outbox.held_event h" \
	"                 WHERE h.id OPERATOR(pg_catalog.=) e.id" \
	"                 AND h.home OPERATOR(pg_catalog.=) e.home)" \
	" ORDER BY e.id LIMIT $2"

#define STORE_PROGRESS \
	"UPDATE outbox.replay_job SET last_id = $2," \
	" sent = sent OPERATOR(pg_catalog.+) $3" \
	" WHERE id OPERATOR(pg_catalog.=) $1"

/* May there be a job?  Set when somebody asks, and when a relay starts. */
static bool may_have_jobs = true;

/* The job that the last batch belongs to, and what the batch amounts to. */
static int64 current_job = 0;
static int64 batch_last_id = 0;
static int64 batch_events = 0;

/*
 * Somebody may have asked for a replay.
 */
void
replay_look(void)
{
	may_have_jobs = true;
}

static bool
run(const char *query, int nargs, Oid *types, Datum *args, int expected)
{
	if (SPI_execute_with_args(query, nargs, types, args, NULL, false, 0) != expected)
		elog(ERROR, "query failed: %s", query);
	return SPI_processed > 0;
}

/*
 * Stores how far the current job has come, now that its batch is delivered, or
 * finds out whether that could be stored.
 */
static void
store_progress(bool just_prove)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		args[3] = {Int64GetDatum(current_job),
		Int64GetDatum(batch_last_id),
	Int64GetDatum(batch_events)};

	if (just_prove)
	{
		worker_prove_sql(STORE_PROGRESS, 3, types, args);
		return;
	}
	run(STORE_PROGRESS, 3, types, args, SPI_OK_UPDATE);
	batch_events = 0;
}

/*
 * The same in a transaction of its own, which the end of this process during
 * the next batch cannot undo.
 */
static void
commit_progress(void)
{
	worker_begin_sql();
	store_progress(false);
	worker_commit_sql();
}

/* The same for the Kafka transaction that the batch is part of. */
static void
note_progress(PublishedSet *set)
{
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {Int64GetDatum(current_job)};
	bool		isnull;

	store_progress(false);
	if (!run("SELECT sent FROM outbox.replay_job"
			 " WHERE id OPERATOR(pg_catalog.=) $1",
			 1, types, args, SPI_OK_SELECT))
		return;					/* cancelled */
	set->replay_job = current_job;
	set->replay_id = batch_last_id;
	set->replay_sent = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												   SPI_tuptable->tupdesc, 1,
												   &isnull));
}

/* The oldest job that is not finished; 0 when there is none. */
static int64
next_job(void)
{
	bool		isnull;

	if (!run("SELECT id, last_id FROM outbox.replay_job WHERE finished_at IS NULL"
			 " ORDER BY id LIMIT 1", 0, NULL, NULL, SPI_OK_SELECT))
		return 0;
	/* A constant, so that each batch is found by the index. */
	batch_last_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, 2,
												&isnull));
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 1, &isnull));
}

static void
send_row(Relay *relay, HeapTuple tuple, TupleDesc desc, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Commit		commit = {0};
	Event		event;

	event_from_tuple(&event, tuple, desc);
	event.replay = true;
	commit.time = event.created_at;
	sender_event(relay, &event, &commit);
	batch_last_id = event.id;
	MemoryContextSwitchTo(old);
	MemoryContextReset(context);
}

/*
 * Sends the rows of the last query and waits until Kafka has taken or refused
 * each.
 */
static void
send_batch(Relay *relay)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox replay",
												  ALLOCSET_DEFAULT_SIZES);
	SPITupleTable *rows = SPI_tuptable;
	uint64		nrows = SPI_processed;

	do
		for (uint64 i = sender_begin(relay); i < nrows && !relay->broken; i++)
			send_row(relay, rows->vals[i], rows->tupdesc, context);
	while (!sender_finish(relay));
	batch_events = nrows;
	ledger_close_commit(relay->ledger, decode_position());
	MemoryContextDelete(context);
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

/* Sends the next batch of the current job, or finishes the job. */
static void
send_next_batch(Relay *relay)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		args[3] = {Int64GetDatum(current_job),
		Int64GetDatum(BATCH_EVENTS),
	Int64GetDatum(batch_last_id)};

	if (relay->cautious)
		store_progress(true);
	if (run(NEXT_EVENTS, 3, types, args, SPI_OK_SELECT))
		send_batch(relay);
	else
		run("UPDATE outbox.replay_job SET finished_at = pg_catalog.clock_timestamp()"
			" WHERE id OPERATOR(pg_catalog.=) $1", 1, types, args,
			SPI_OK_UPDATE);
}

/*
 * The work of replay_step() when deliveries are exact.
 */
static void
send_transaction(Relay *relay)
{
	TimestampTz until = TimestampTzPlusMilliseconds(steady_now(),
													outbox_transaction_interval);

	do
	{
		current_job = next_job();
		if (current_job == 0)
			may_have_jobs = false;
		else
			send_next_batch(relay);
		if (batch_events == 0)
			break;				/* none, or one has come to its end */
		note_progress(&relay->exact->set);
		CommandCounterIncrement();
	} while (steady_now() < until);
	exactly_once_commit(relay, exactly_once_position(relay));
}

/*
 * Sends a batch of events that are to be replayed, if there are any and
 * nothing else is in flight.  Returns whether there may be more.  Call between
 * records.
 */
bool
replay_step(Relay *relay)
{
	if (!may_have_jobs || !ledger_is_empty(relay->ledger))
		return false;
	if (relay->exact == NULL && batch_events > 0)
		commit_progress();

	worker_begin_sql();
	forbid_sorting();
	if (relay->exact)
	{
		send_transaction(relay);
		worker_commit_sql_durably();
		return may_have_jobs;
	}
	current_job = next_job();
	if (current_job != 0)
		send_next_batch(relay);
	else
		may_have_jobs = false;
	worker_commit_sql();
	return may_have_jobs;
}
