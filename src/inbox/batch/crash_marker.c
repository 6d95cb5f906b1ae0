/*-------------------------------------------------------------------------
 *
 * crash_marker.c
 *	  The mark of a worker that has worked since the server last crashed.
 *
 * It is a row of inbox.crash_marker; crash_suspects.c says what it is for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/crash_marker.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/batch/under_way.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_lag.h"
#include "kafka/consumer/consumer.h"

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
	/* With it, that positions of new partitions are there. */
	worker_commit_sql_durably();
	return found;
}

/* Has a subscription of that name received anything? */
#define RECEIVED_QUERY \
	"SELECT FROM inbox.message WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" UNION ALL SELECT FROM inbox.received" \
	" WHERE consumer OPERATOR(pg_catalog.=) ('@' OPERATOR(pg_catalog.||) $1)" \
	" UNION ALL SELECT FROM inbox.received" \
	" WHERE consumer OPERATOR(pg_catalog.>) ('@' OPERATOR(pg_catalog.||) $1 OPERATOR(pg_catalog.||) '/')" \
	" AND consumer OPERATOR(pg_catalog.<) ('@' OPERATOR(pg_catalog.||) $1 OPERATOR(pg_catalog.||) '0')" \
	" LIMIT 1"

/* Notes that what a crash would make the worker begin with is over. */
static void
set_crash_marker(InboxWorker *worker)
{
	(void) run_about_worker(worker,
							"INSERT INTO inbox.crash_marker VALUES ($1, $2)"
							" ON CONFLICT DO NOTHING");
	worker->crashed = false;
}

/*
 * The worker has met its partitions, or more of them, from number first on.
 * With the first ones it finds out whether the server has crashed since it last
 * worked.
 */
void
culprit_look(InboxWorker *worker, int first)
{
	bool		is_new = true;

	for (int i = first; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		is_new &= partition->is_new;
		partition->began_at = partition->stored;
		partition->suspects = worker->subscription->batch_size;
	}
	if (first > 0)
		return;
	worker->crashed = !run_about_worker(worker,
										"SELECT FROM inbox.crash_marker"
										" WHERE subscription OPERATOR(pg_catalog.=) $1"
										" AND worker OPERATOR(pg_catalog.=) $2");
	if (worker->crashed && is_new && !run_about_worker(worker, RECEIVED_QUERY))
		set_crash_marker(worker);
}

/* Has all of a partition been read that was there when the server crashed? */
static bool
is_past_crash(InboxWorker *worker, Partition *partition)
{
	ConsumerPartition *at = &partition->at;
	int64		end;

	if (partition->suspects > 0 &&
		consumer_known_end(worker->consumer, at->topic, at->partition, &end) &&
		partition->at.offset >= end)
		partition->suspects = 0;
	return partition->suspects == 0 || partition->lost || partition->gone;
}

/*
 * Suspects nobody any more when everything was handled that may have been under
 * way.  Call it between transactions.
 */
void
culprit_rest(InboxWorker *worker)
{
	bool		past = true;

	if (!worker->crashed && worker->entry->suspects.n == 0)
		return;
	for (int i = 0; i < worker->npartitions; i++)
		past &= is_past_crash(worker, worker->partitions[i]);
	/* Nothing is known of what is locked. */
	if (worker->locked[0] != '\0')
		return;
	if (worker->crashed && past && worker->npartitions > 0 && worker->complete &&
		!redelivery_queue_has_old(worker))
		set_crash_marker(worker);
	if (worker->complete && partitions_lag(worker) == 0 &&
		hash_get_num_entries(worker->waiting) == 0)
		culprit_forget(worker);
}
