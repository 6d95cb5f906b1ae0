/*-------------------------------------------------------------------------
 *
 * dedup_batch.c
 *	  What a batch of messages adds to inbox.received.
 *
 * A subscription's entries are those of a consumer of its own for each topic,
 * or of one for all topics.  Which it is can be changed, and was the latter
 * for all subscriptions once.  So an entry counts under the other name, too.
 * To look for it costs as much again, so that is done only in chunks where
 * there is anything under that name.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/table/dedup_batch.h"

#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "inbox/table/dedup.h"
#include "inbox/table/dedup_table.h"
#include "inbox/table/ring.h"

/* Rows that are handed to the table at a time. */
#define BATCH_ROWS 500

/* A batch that is being added. */
typedef struct ReceivedBatch
{
	ReceivedTable table;
	TupleTableSlot *slots[BATCH_ROWS];
	int			nrows;			/* to be inserted */
	Datum		former;			/* of which is known: */
	bool		former_chunks[RING_SIZE];	/* where it has entries */
	const ReceivedItem *last;	/* that was judged */
	bool		has_hash;		/* the entry of that one has */
	uint64		hash;			/* this one */
} ReceivedBatch;

static int
compare_texts(Datum a, Datum b)
{
	int			len_a = VARSIZE_ANY_EXHDR(DatumGetPointer(a));
	int			len_b = VARSIZE_ANY_EXHDR(DatumGetPointer(b));
	int			order = memcmp(VARDATA_ANY(DatumGetPointer(a)),
							   VARDATA_ANY(DatumGetPointer(b)),
							   Min(len_a, len_b));

	return order != 0 ? order : len_a - len_b;
}

/* Compares what tells items, which is none of their order in the batch. */
static int
compare_identities(const ReceivedItem *a, const ReceivedItem *b)
{
	int			order = compare_texts(a->event_id, b->event_id);

	if (order != 0 || a->consumer == b->consumer)
		return order;
	return compare_texts(a->consumer, b->consumer);
}

static int
compare_items(const void *a, const void *b)
{
	const ReceivedItem *x = *(ReceivedItem *const *) a;
	const ReceivedItem *y = *(ReceivedItem *const *) b;
	int			order = compare_identities(x, y);

	return order != 0 ? order : x < y ? -1 : 1;
}

/* Raises the error after which a batch is repeated. */
static void
raise_batch_conflict(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent receipt of a message"),
			 errdetail("Another transaction has received it at the same time, or \"inbox.received\" has moved on to its next chunk."),
			 errhint("Retry the transaction.")));
}

/* Inserts the rows, which were not found, into table and indexes. */
static void
insert_rows(ReceivedBatch *batch)
{
	ReceivedTable *table = &batch->table;

	if (batch->nrows == 0)
		return;
	table_multi_insert(table->target->ri_RelationDesc, batch->slots,
					   batch->nrows, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < batch->nrows; i++)
	{
		bool		conflict = false;

		compat_insert_index_tuples(table->target, batch->slots[i],
								   table->estate, &conflict);
		if (conflict)
			raise_batch_conflict();
		ResetPerTupleExprContext(table->estate);
	}
	batch->nrows = 0;
}

/* A hash as the table has it. */
static Datum
hash_to_bytea(uint64 hash)
{
	bytea	   *value = palloc(VARHDRSZ + sizeof(hash));

	hash = pg_hton64(hash);
	SET_VARSIZE(value, VARHDRSZ + sizeof(hash));
	memcpy(VARDATA(value), &hash, sizeof(hash));
	return PointerGetDatum(value);
}

/* Adds an entry, with the rows that are inserted next. */
static void
add_row(ReceivedBatch *batch, const ReceivedItem *item)
{
	ReceivedTable *table = &batch->table;
	TupleTableSlot **slot = &batch->slots[batch->nrows++];

	if (*slot == NULL)
		*slot = table_slot_create(table->target->ri_RelationDesc,
								  &table->estate->es_tupleTable);
	dedup_fill_slot(table, *slot, item->consumer, item->event_id,
					hash_to_bytea(item->hash), item->since);
	if (batch->nrows == BATCH_ROWS)
		insert_rows(batch);
}

/* Looks for the entry of an item. */
static ReceivedChunk *
find_item(ReceivedBatch *batch, const ReceivedItem *item)
{
	ReceivedChunk *chunk = dedup_find(&batch->table, item->consumer,
									  item->event_id, NULL);

	if (chunk != NULL || item->former == (Datum) 0)
		return chunk;
	if (item->former != batch->former)
		dedup_look_for_any(&batch->table, item->former, batch->former_chunks);
	batch->former = item->former;
	chunk = dedup_find(&batch->table, item->former, item->event_id,
					   batch->former_chunks);
	if (chunk != NULL || item->former_id == item->event_id)
		return chunk;
	chunk = dedup_find(&batch->table, item->former, item->former_id,
					   batch->former_chunks);
	/* Entries of that kind had no hash. */
	if (chunk != NULL &&
		!slot_attisnull(chunk->slot, RECEIVED_PAYLOAD_HASH + 1))
		return NULL;
	return chunk;
}

/* Notes the hash of an entry that was found.  Older ones have none. */
static void
note_hash(ReceivedBatch *batch, ReceivedChunk *chunk)
{
	bool		isnull;
	Datum		datum = slot_getattr(chunk->slot, RECEIVED_PAYLOAD_HASH + 1,
									 &isnull);
	bytea	   *known;

	batch->has_hash = false;
	if (isnull)
		return;
	known = DatumGetByteaPP(datum);
	if (VARSIZE_ANY_EXHDR(known) != sizeof(batch->hash))
		return;
	memcpy(&batch->hash, VARDATA_ANY(known), sizeof(batch->hash));
	batch->hash = pg_ntoh64(batch->hash);
	batch->has_hash = true;
}

/* Judges an item, and adds its entry when it has none. */
static void
judge(ReceivedBatch *batch, ReceivedItem *item)
{
	bool		repeated = batch->last != NULL &&
	compare_identities(batch->last, item) == 0;

	batch->last = item;
	if (!repeated)
	{
		ReceivedChunk *chunk = find_item(batch, item);

		if (chunk == NULL)
		{
			item->verdict = RECEIVED_NEW;
			batch->has_hash = true;
			batch->hash = item->hash;
			add_row(batch, item);
			return;
		}
		note_hash(batch, chunk);
	}
	item->verdict = batch->has_hash && batch->hash != item->hash ?
		RECEIVED_CONFLICTING : RECEIVED_REPEATED;
}

/*
 * Adds the entries of n messages of one array, whose texts are not compressed,
 * and sets their verdicts: also by messages that came earlier in the batch.  Waits for
 * transactions that are about to add the same.  Raises a serialization
 * failure, and is to be repeated in a new transaction, when another
 * transaction got in between.
 */
void
dedup_add_batch(ReceivedItem **items, int n)
{
	ReceivedBatch batch = {.nrows = 0};
	ReceivedItem **sorted;

	if (n == 0)
		return;
	dedup_open(&batch.table);
	sorted = palloc(n * sizeof(ReceivedItem *));
	memcpy(sorted, items, n * sizeof(ReceivedItem *));
	qsort(sorted, n, sizeof(ReceivedItem *), compare_items);
	for (int i = 0; i < n; i++)
		judge(&batch, sorted[i]);
	insert_rows(&batch);
	if (dedup_ring_has_moved(&batch.table))
		raise_batch_conflict();
	dedup_close(&batch.table);
}
