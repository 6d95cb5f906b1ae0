/*-------------------------------------------------------------------------
 *
 * stray_positions.c
 *	  Positions in partitions that do not exist.
 *
 * inbox.seek() cannot ask Kafka which partitions a topic has: it runs in the
 * transaction of a user.  So the worker that begins after it, and finds that one
 * does not exist, removes the position, and tells.  One that messages were read
 * from stays: its topic was made anew with fewer partitions.
 *
 * A broker may not have heard yet of a partition that was just added.  So the
 * worker looks again and again, and removes what all looks of some time missed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/partition/stray_positions.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/partition/search_state.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"

#define STRAYS_MS 5000			/* that they are missed for, at least */

#define STRAYS \
	" ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) t (topic, partitions)" \
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1" \
	" AND p.topic OPERATOR(pg_catalog.=) t.topic" \
	" AND p.partition OPERATOR(pg_catalog.>=) t.partitions" \
	" AND p.received OPERATOR(pg_catalog.=) 0"

#define LIST_QUERY \
	"SELECT pg_catalog.string_agg(pg_catalog.format('%s/%s', p.topic, p.partition), ' ' ORDER BY p.topic, p.partition)" \
	" FROM inbox.position p," STRAYS

/* What somebody else has locked, as by another inbox.seek(), stays for now. */
#define REMOVE_QUERY \
	"WITH free AS MATERIALIZED (SELECT p.topic, p.partition, t.partitions" \
	"  FROM inbox.position p," STRAYS " FOR UPDATE OF p SKIP LOCKED)" \
	" DELETE FROM inbox.position p USING free f" \
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1" \
	" AND p.topic OPERATOR(pg_catalog.=) f.topic" \
	" AND p.partition OPERATOR(pg_catalog.=) f.partition" \
	" RETURNING pg_catalog.format('partition %s of topic \"%s\", which has %s of them, does not exist, so what inbox.seek() asked for is forgotten'," \
	"  p.partition, p.topic, f.partitions)"

/*
 * Takes down the positions that a look has found.  Returns whether they are to be
 * removed: all looks for some time have found the same.
 */
static bool
note_strays(InboxWorker *worker, const char *found)
{
	TimestampTz now = monotonic_now();
	bool		same = found && worker->strays && strcmp(worker->strays, found) == 0;

	worker->looked_for_strays = found == NULL;
	if (same)
		return TimestampDifferenceExceeds(worker->strays_since, now, STRAYS_MS);
	if (worker->strays)
		pfree(worker->strays);
	worker->strays = found ? MemoryContextStrdup(TopMemoryContext, found) : NULL;
	worker->strays_since = now;
	return false;
}

/* Fills the arguments of the statements. */
static void
fill_arguments(InboxWorker *worker, Search *search, Datum *args)
{
	Datum	   *topics = palloc(sizeof(Datum) * Max(hash_get_num_entries(search->topics), 1));
	Datum	   *partitions = palloc(sizeof(Datum) * Max(hash_get_num_entries(search->topics), 1));
	HASH_SEQ_STATUS scan;
	FoundTopic *topic;
	int			n = 0;

	hash_seq_init(&scan, search->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->partitions == 0)
			continue;
		topics[n] = CStringGetTextDatum(topic->name);
		partitions[n++] = Int32GetDatum(topic->partitions);
	}
	args[0] = CStringGetTextDatum(worker->subscription->name);
	args[1] = PointerGetDatum(construct_array(topics, n, TEXTOID, -1,
											  false, TYPALIGN_INT));
	args[2] = PointerGetDatum(construct_array(partitions, n, INT4OID,
											  sizeof(int32), true, TYPALIGN_INT));
}

/* Removes them, and tells.  The next look finds those that are left. */
static void
remove_strays(InboxWorker *worker, Oid *types, Datum *args)
{
	if (SPI_execute_with_args(REMOVE_QUERY, 3, types, args, NULL, false, 0) !=
		SPI_OK_DELETE_RETURNING)
		elog(ERROR, "query failed: %s", REMOVE_QUERY);
	for (uint64 i = 0; i < SPI_processed; i++)
		health_tell(worker, SPI_getvalue(SPI_tuptable->vals[i],
										 SPI_tuptable->tupdesc, 1));
}

/*
 * Looks for positions in partitions that the topics which were found do not have,
 * until there are none, or those that it has found for some time are removed.
 * Runs a transaction of its own.
 */
void
stray_positions_remove(InboxWorker *worker, Search *search)
{
	Oid			types[3] = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID};
	Datum		args[3];

	if (worker->looked_for_strays || worker->entry->worker != 0)
		return;
	worker_begin_sql();
	fill_arguments(worker, search, args);
	if (SPI_execute_with_args(LIST_QUERY, 3, types, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", LIST_QUERY);
	if (note_strays(worker, SPI_getvalue(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1)))
		remove_strays(worker, types, args);
	worker_commit_sql();
}
