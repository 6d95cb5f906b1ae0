/*-------------------------------------------------------------------------
 *
 * survivor.c
 *	  Tells a worker that the server has crashed since it last worked.
 *
 * A worker that works leaves a row in inbox.survivor, an unlogged table, which
 * a crash empties.  So without the row, perhaps it was the handler that made
 * the server crash, and the first messages are taken with care: see batch.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/worker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"

#include "base/worker.h"

/* Runs a statement about this worker; returns whether it found a row. */
static bool
run_about_worker(InboxWorker *worker, const char *query)
{
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		args[2] = {(Datum) 0, Int32GetDatum(worker->entry->worker)};
	bool		found;

	worker_begin_sql();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	if (SPI_execute_with_args(query, 2, types, args, NULL, false, 0) < 0)
		elog(ERROR, "query failed: %s", query);
	found = SPI_processed > 0;
	worker_commit_sql();
	return found;
}

/* Has this worker worked since the last crash? */
static bool
marker_exists(InboxWorker *worker)
{
	return run_about_worker(worker,
							"SELECT FROM inbox.survivor"
							" WHERE subscription OPERATOR(pg_catalog.=) $1"
							" AND worker OPERATOR(pg_catalog.=) $2");
}

/*
 * Notes that what a crash would make the worker begin with is over.
 */
void
survivor_mark(InboxWorker *worker)
{
	(void) run_about_worker(worker,
							"INSERT INTO inbox.survivor VALUES ($1, $2)"
							" ON CONFLICT DO NOTHING");
	worker->unmarked = false;
}

/*
 * Finds out whether the server has crashed since this worker last worked:
 * perhaps the handler did it.  Then the first messages are taken with care.
 */
void
survivor_check(InboxWorker *worker)
{
	bool		is_new = true;

	for (int i = 0; i < worker->npartitions; i++)
		is_new &= worker->partitions[i]->is_new;
	worker->unmarked = !marker_exists(worker);
	if (worker->unmarked && is_new)
		survivor_mark(worker);
	else if (worker->unmarked)
		worker->careful = Max(worker->careful, worker->subscription->batch_size);
}
