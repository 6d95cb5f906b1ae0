/*-------------------------------------------------------------------------
 *
 * catchup_reader.c
 *	  Reads the events of a round of catch-up, a batch at a time.
 *
 * Each batch is read by a short transaction of its own, so that none is open
 * while events are on their way to Kafka.
 *
 * The order is that of ids, or one transaction after the other, in the order
 * of their last events.  That keeps the order of a key as well: whoever
 * publishes for a key after another transaction that held it has committed has
 * a later last event.
 *
 * Transactions that ran side by side have their ids mixed.  Most have not: one
 * event, or several in a row.  Where ids are read in order those come whole by
 * themselves.  So a list is made, by one look at what is unpublished, of the
 * transactions that have events of others between their own.  Reading goes
 * over the ids as far as a batch is large, or as the listed transactions that
 * end there fill one; leaves out events of listed ones; and then reads, by one
 * scan from the first event on, those of listed ones that end in that part.
 * What is put in order afterwards is never more than two batches.  A listed
 * transaction that would fill a batch by itself is read alone, when it is its
 * turn, in as many batches as it takes.
 *
 * So memory is bounded, but for the list: it has LIST_SIZE entries, and those
 * of transactions that are open where it ends, which are as many as ran at a
 * time.  When it is used up the next is made.  What the bound costs is that the
 * ids between first and last event of a listed transaction are scanned again,
 * once for all that end in one batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/catchup_reader.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "core/background_worker.h"
#include "event/event.h"
#include "relay/state/catchup_progress.h"
#include "relay/state/event_batch.h"
#include "relay/state/xid_array.h"
#include "relay/table/catchup_table.h"

#define FETCH_ROWS 50
#define LIST_SIZE 200000		/* of 48 bytes each */

/* Columns are those of EventColumn, in their order. */
#define SELECT_EVENTS \
	"SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type," \
	" e.payload, e.content_type, e.headers, e.topic, e.partition_key," \
	" e.deliver_at, e.created_at, e.xid, e.chunk, e.database_id, e.id_given" \
	" FROM outbox.event e" \
	" WHERE e.id OPERATOR(pg_catalog.>) $1 AND e.id OPERATOR(pg_catalog.<=) $2" \
	" AND e.database_id OPERATOR(pg_catalog.=) $3"

/* What snapshot $5 shows and the watermark $4 does not. */
#define EVENTS_OF_ROUND SELECT_EVENTS \
	" AND NOT pg_catalog.pg_visible_in_snapshot(e.xid, $4)" \
	" AND pg_catalog.pg_visible_in_snapshot(e.xid, $5)" \
	" ORDER BY e.id"

#define EVENTS_OF_TRANSACTIONS SELECT_EVENTS \
	" AND e.xid OPERATOR(pg_catalog.=) ANY ($4)" \
	" ORDER BY e.id"

struct CatchupReader
{
	const CatchupProgress *progress;
	const CatchupRange *range;
	MemoryContext context;		/* of this and the list */
	int64		after;			/* read up to here; when transactions are to
								 * be whole, those that end here or before */
	int64		through;		/* where the list ends */
	TransactionList list;		/* by last_id */
	uint64	   *xids;			/* of the list, ascending */
	uint64		next;			/* of the list, the first that ends later */
	bool		alone;			/* that one is being read by itself, */
	int64		alone_after;	/* so far up to here */
};

/*
 * Begins, or goes on, to read a round.  Both structs are left to the caller,
 * and must not move; what they say of the progress counts once.
 */
CatchupReader *
catchup_reader_open(const CatchupProgress *progress, const CatchupRange *range,
					MemoryContext context)
{
	MemoryContext own = AllocSetContextCreate(context, "outbox catch-up reader",
											  ALLOCSET_DEFAULT_SIZES);
	CatchupReader *reader = MemoryContextAllocZero(own, sizeof(CatchupReader));

	reader->progress = progress;
	reader->range = range;
	reader->context = own;
	reader->list.context = own;
	reader->after = reader->through = progress->last_id;
	return reader;
}

void
catchup_reader_close(CatchupReader *reader)
{
	MemoryContextDelete(reader->context);
}

/* Makes the next list. */
static void
make_list(CatchupReader *reader)
{
	TransactionList *list = &reader->list;

	list->count = reader->next = 0;
	reader->through = reader->range->through_id;
	catchup_list(reader->progress, reader->range, reader->after, PG_INT64_MAX,
				 LIST_SIZE, list);
	if (list->count == LIST_SIZE)
	{
		reader->through = list->items[list->count - 1].last_id;
		catchup_list(reader->progress, reader->range, reader->through,
					 reader->through, 0, list);
	}
	if (reader->xids)
		pfree(reader->xids);
	reader->xids = MemoryContextAllocHuge(reader->context,
										  (list->count + 1) * sizeof(uint64));
	for (uint64 i = 0; i < list->count; i++)
		reader->xids[i] = list->items[i].xid;
	qsort(reader->xids, list->count, sizeof(uint64), compare_xids);
}

/* A plan, made once.  Needs SPI. */
static SPIPlanPtr
get_plan(SPIPlanPtr *plan, const char *query, int nargs, Oid *types)
{
	if (*plan == NULL)
	{
		*plan = SPI_prepare(query, nargs, types);
		if (*plan == NULL || SPI_keepplan(*plan) != 0)
			elog(ERROR, "could not prepare to read events");
	}
	return *plan;
}

/* Settings without which an index on id might not be used. */
static void
read_by_id(void)
{
	static const char *const by_id[] = {"enable_seqscan", "enable_bitmapscan",
	"enable_sort", "jit", NULL};

	catchup_turn_off(by_id);
}

/* Opens a cursor over the round's events with ids up to one.  Needs SPI. */
static Portal
open_round(const CatchupReader *reader, int64 after, int64 through)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[5] = {INT8OID, INT8OID, INT4OID, PG_SNAPSHOTOID,
	PG_SNAPSHOTOID};
	Datum		args[5] = {Int64GetDatum(after), Int64GetDatum(through),
	Int32GetDatum(reader->progress->database_id)};

	args[3] = catchup_snapshot_datum(reader->range->published);
	args[4] = catchup_snapshot_datum(reader->progress->snapshot);
	read_by_id();
	return SPI_cursor_open(NULL, get_plan(&plan, EVENTS_OF_ROUND, 5, types),
						   args, NULL, true);
}

/* The same over the events of some listed transactions. */
static Portal
open_listed(const CatchupReader *reader, const RoundTransaction *items,
			int nitems, int64 after, int64 through)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[4] = {INT8OID, INT8OID, INT4OID, XID8ARRAYOID};
	Datum		args[4] = {Int64GetDatum(after), Int64GetDatum(through),
	Int32GetDatum(reader->progress->database_id)};
	Datum	   *xids = palloc(nitems * sizeof(Datum));

	for (int i = 0; i < nitems; i++)
		xids[i] = FullTransactionIdGetDatum(FullTransactionIdFromU64(items[i].xid));
	args[3] = PointerGetDatum(construct_array(xids, nitems, XID8OID,
											  sizeof(FullTransactionId),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	read_by_id();
	return SPI_cursor_open(NULL, get_plan(&plan, EVENTS_OF_TRANSACTIONS, 4, types),
						   args, NULL, true);
}

/* Is the row of the last query an event of a listed transaction? */
static bool
is_listed(const CatchupReader *reader, uint64 row)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row],
									  SPI_tuptable->tupdesc, EVENT_XID + 1,
									  &isnull);
	uint64		xid = U64FromFullTransactionId(DatumGetFullTransactionId(value));

	return bsearch(&xid, reader->xids, reader->list.count, sizeof(uint64),
				   compare_xids) != NULL;
}

/*
 * Fills an empty batch from a cursor, which it closes, without events of
 * listed transactions if so asked.  Returns the id of the last event when the
 * batch is full, else none_left.
 */
static int64
fill_batch(const CatchupReader *reader, Portal cursor, bool leave_out_listed,
		   EventBatch *batch, int64 none_left)
{
	int64		last_id = none_left;
	bool		room = true;

	while (room && (SPI_cursor_fetch(cursor, true, FETCH_ROWS), SPI_processed > 0))
	{
		for (uint64 row = 0; row < SPI_processed && room; row++)
		{
			if (leave_out_listed && is_listed(reader, row))
				continue;
			last_id = event_batch_add(batch, row)->id;
			room = event_batch_has_room(batch);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(cursor);
	return room ? none_left : last_id;
}

/* The next events in the order of ids. */
static bool
read_in_order(CatchupReader *reader, EventBatch *batch)
{
	int64		through = reader->range->through_id;

	worker_begin_sql();
	reader->after = fill_batch(reader, open_round(reader, reader->after, through),
							   false, batch, through);
	worker_commit_sql();
	return batch->size > 0;
}

/*
 * Up to which id to read next, so that the listed transactions that end before
 * fit into a batch.
 */
static int64
choose_end(const CatchupReader *reader)
{
	int64		events = 0;
	int64		bytes = 0;

	for (uint64 i = reader->next; i < reader->list.count; i++)
	{
		const RoundTransaction *item = &reader->list.items[i];

		if (item->last_id > reader->through)
			break;
		events += item->events;
		bytes += item->bytes;
		if (events > BATCH_EVENTS || bytes > BATCH_BYTES)
			return item->last_id - 1;
	}
	return reader->through;
}

static int
compare_places(const void *a, const void *b)
{
	const BatchPlace *x = a;
	const BatchPlace *y = b;

	if (x->last_id != y->last_id)
		return x->last_id < y->last_id ? -1 : 1;
	return x->event->id < y->event->id ? -1 : x->event->id > y->event->id;
}

/*
 * Adds the events of the next listed transactions to a batch, and puts it in
 * order.  Needs SPI.
 */
static void
add_listed(CatchupReader *reader, int nitems, EventBatch *batch)
{
	const RoundTransaction *items = &reader->list.items[reader->next];
	int64		first_id = items[0].first_id;
	Portal		cursor;

	for (int i = 1; i < nitems; i++)
		first_id = Min(first_id, items[i].first_id);
	cursor = open_listed(reader, items, nitems, first_id - 1,
						 items[nitems - 1].last_id);
	while (SPI_cursor_fetch(cursor, true, FETCH_ROWS), SPI_processed > 0)
	{
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			const Event *event = event_batch_add(batch, row);
			int			i = 0;

			while (items[i].xid != event->xid)
				i++;
			batch->places[batch->size - 1].last_id = items[i].last_id;
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(cursor);
	qsort(batch->places, batch->size, sizeof(BatchPlace), compare_places);
}

/*
 * Reads all transactions that end in the next part of the ids, or the events
 * there of one that is not listed.  There may be none.
 */
static void
read_part(CatchupReader *reader, EventBatch *batch)
{
	int64		end = choose_end(reader);
	uint64		n = reader->next;

	if (end <= reader->after)
	{
		/* The next that ends is too large for a batch. */
		reader->alone = true;
		reader->alone_after = reader->list.items[n].first_id - 1;
		return;
	}
	worker_begin_sql();
	end = fill_batch(reader, open_round(reader, reader->after, end), true,
					 batch, end);
	while (n < reader->list.count && reader->list.items[n].last_id <= end)
		n++;
	if (n > reader->next)
		add_listed(reader, n - reader->next, batch);
	worker_commit_sql();
	reader->next = n;
	reader->after = end;
}

/* Reads more of a large transaction. */
static void
read_alone(CatchupReader *reader, EventBatch *batch)
{
	const RoundTransaction *item = &reader->list.items[reader->next];

	worker_begin_sql();
	reader->alone_after = fill_batch(reader,
									 open_listed(reader, item, 1,
												 reader->alone_after,
												 item->last_id),
									 false, batch, item->last_id);
	worker_commit_sql();
	if (reader->alone_after < item->last_id)
		return;
	reader->alone = false;
	reader->after = item->last_id;
	reader->next++;
}

/*
 * Reads the next events of the round.  Returns false when there are none.
 */
bool
catchup_reader_next(CatchupReader *reader, EventBatch *batch)
{
	event_batch_reset(batch);
	if (!reader->progress->whole)
		return read_in_order(reader, batch);
	while (batch->size == 0 && reader->after < reader->range->through_id)
	{
		if (reader->after >= reader->through)
			make_list(reader);
		if (reader->alone)
			read_alone(reader, batch);
		else
			read_part(reader, batch);
	}
	return batch->size > 0;
}
