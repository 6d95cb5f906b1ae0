/*-------------------------------------------------------------------------
 *
 * strays.c
 *	  Positions in partitions that do not exist.
 *
 * inbox.seek() cannot ask Kafka which partitions a topic has: it runs in the
 * transaction of a user.  So the worker that begins after it, and finds that one
 * does not exist, removes the position, and tells.  One that messages were read
 * from stays: its topic was made anew with fewer partitions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/search.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/worker.h"

#define REMOVE_QUERY \
	"DELETE FROM inbox.position p" \
	" USING ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) t (topic, partitions)" \
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1" \
	" AND p.topic OPERATOR(pg_catalog.=) t.topic" \
	" AND p.partition OPERATOR(pg_catalog.>=) t.partitions" \
	" AND p.received OPERATOR(pg_catalog.=) 0" \
	" RETURNING pg_catalog.format('partition %s of topic \"%s\", which has %s of them, does not exist, so what inbox.seek() asked for is forgotten'," \
	"  p.partition, p.topic, t.partitions)"

/*
 * Removes positions in partitions that the topics which were found do not have.
 * Runs a transaction of its own, and only the first time.
 */
void
strays_remove(InboxWorker *worker, Search *search)
{
	Oid			types[3] = {TEXTOID, TEXTARRAYOID, INT4ARRAYOID};
	Datum		args[3];
	Datum	   *topics = palloc(sizeof(Datum) * Max(hash_get_num_entries(search->topics), 1));
	Datum	   *partitions = palloc(sizeof(Datum) * Max(hash_get_num_entries(search->topics), 1));

	HASH_SEQ_STATUS scan;
	FoundTopic *topic;
	int			n = 0;

	if (worker->looked_for_strays || worker->entry->worker != 0)
		return;
	worker->looked_for_strays = true;
	worker_begin_sql();
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
	if (SPI_execute_with_args(REMOVE_QUERY, 3, types, args, NULL, false, 0) !=
		SPI_OK_DELETE_RETURNING)
		elog(ERROR, "query failed: %s", REMOVE_QUERY);
	for (uint64 i = 0; i < SPI_processed; i++)
		health_tell(worker, SPI_getvalue(SPI_tuptable->vals[i],
										 SPI_tuptable->tupdesc, 1));
	worker_commit_sql();
}
