/*-------------------------------------------------------------------------
 *
 * received.c
 *	  inbox.received: what tells a repeated message.
 *
 * An entry must be unique over all chunks of the table, and each chunk has an
 * index of its own.  So who adds an entry
 *
 * 1. reads which chunk is the current one,
 * 2. looks for the entry in all chunks, seeing entries of transactions that
 *	  are still running too, and waiting for these,
 * 3. inserts the entry into the current chunk, whose index tells when somebody
 *	  else has done so since, and
 * 4. reads again which chunk is the current one; when the ring has moved on,
 *	  the entry is taken back, and all begins anew.
 *
 * Two who add the same entry at the same time either have the same chunk in
 * mind, and meet in its index; or one of them read the sequence after it had
 * moved on.  If the other one's entry stays, that one read it (in 4) before
 * it moved, thus inserted before, and is found (in 2).
 *
 * A single entry is inserted speculatively, as ON CONFLICT DO NOTHING does, so
 * that it can be taken back without aborting anything.  A batch is inserted
 * the fast way: its transaction is repeated in the rare case.
 *
 * Chunks other than the current one are locked only while somebody looks into
 * them, so that old ones can be truncated under load.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/received.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "inbox/ring.h"

/* Rows that a batch hands to the table at a time. */
#define BATCH_ROWS 500

/* Columns of inbox.received. */
enum
{
	RECEIVED_AT,
	RECEIVED_CHUNK,
	RECEIVED_CONSUMER,
	RECEIVED_EVENT_ID,
	RECEIVED_PAYLOAD_HASH,
	RECEIVED_NCOLUMNS
};

/* A chunk that is searched. */
typedef struct ReceivedChunk
{
	Relation	heap;			/* NULL when there is nothing to find */
	Relation	index;
	SnapshotData dirty;
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* what was found */
} ReceivedChunk;

/* The table while entries of one consumer are added. */
typedef struct ReceivedTable
{
	Datum		consumer;
	int64		position;		/* of the ring */
	int16		current;
	ReceivedChunk chunks[RING_SIZE];
	EState	   *estate;
	ResultRelInfo *target;		/* the current chunk */
	MemoryContext old_context;
} ReceivedTable;

/* The unique index of a chunk. */
static Relation
open_index(Relation heap)
{
	List	   *indexes = RelationGetIndexList(heap);

	list_free(indexes);
	if (!OidIsValid(heap->rd_pkindex))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s.%s\" has no primary key",
						INBOX_SCHEMA, RelationGetRelationName(heap)),
				 errdetail("Extension outbox made it with one, which was dropped since."),
				 errhint("Add the primary key of \"inbox.received\" again.")));
	return index_open(heap->rd_pkindex, AccessShareLock);
}

/* Prepares to search a chunk; one that is empty is left out. */
static void
open_chunk(ReceivedTable *table, int16 number)
{
	ReceivedChunk *chunk = &table->chunks[number];
	bool		is_current = number == table->current;

	chunk->heap = ring_open_chunk(RING_RECEIVED, number, is_current ?
								  RowExclusiveLock : AccessShareLock);
	if (!is_current && RelationGetNumberOfBlocks(chunk->heap) == 0)
	{
		relation_close(chunk->heap, AccessShareLock);
		chunk->heap = NULL;
		return;
	}
	chunk->index = open_index(chunk->heap);
	chunk->slot = table_slot_create(chunk->heap, NULL);
	InitDirtySnapshot(chunk->dirty);
	chunk->scan = compat_index_beginscan(chunk->heap, chunk->index,
										 &chunk->dirty, 2);
}

/*
 * Opens the table to add entries of a consumer.  What it needs is allocated in
 * a context of its own, which is current until close_table().
 */
static void
open_table(ReceivedTable *table, Datum consumer)
{
	ReceivedChunk *current;

	memset(table, 0, sizeof(*table));
	table->consumer = consumer;
	table->estate = CreateExecutorState();
	table->old_context = MemoryContextSwitchTo(table->estate->es_query_cxt);
	table->position = ring_position(RING_RECEIVED);
	table->current = ring_chunk_at(table->position);
	for (int16 i = 0; i < RING_SIZE; i++)
		open_chunk(table, i);

	current = &table->chunks[table->current];
	if (RelationGetNumberOfAttributes(current->heap) != RECEIVED_NCOLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s.%s\" is not what extension outbox made",
						INBOX_SCHEMA, RelationGetRelationName(current->heap)),
				 errdetail("Its columns were changed."),
				 errhint("Undo that, or drop the extension and create it again.")));
	table->target = makeNode(ResultRelInfo);
	InitResultRelInfo(table->target, current->heap, 0, NULL, 0);
	ExecOpenIndices(table->target, true);
}

/* Closes the table.  The current chunk stays locked. */
static void
close_table(ReceivedTable *table)
{
	ExecCloseIndices(table->target);
	for (int i = 0; i < RING_SIZE; i++)
	{
		ReceivedChunk *chunk = &table->chunks[i];

		if (chunk->heap == NULL)
			continue;
		index_endscan(chunk->scan);
		ExecDropSingleTupleTableSlot(chunk->slot);
		index_close(chunk->index, AccessShareLock);
		relation_close(chunk->heap, i == table->current ?
					   NoLock : AccessShareLock);
	}
	ExecResetTupleTable(table->estate->es_tupleTable, false);
	MemoryContextSwitchTo(table->old_context);
	FreeExecutorState(table->estate);
}

/*
 * Looks for an entry in a chunk; the chunk's slot is set when it is there.
 * Waits for transactions that are about to add or to remove it.
 */
static bool
find_in_chunk(ReceivedTable *table, ReceivedChunk *chunk, Datum event_id)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, table->consumer);
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_TEXTEQ, event_id);
	for (;;)
	{
		TransactionId xid;
		uint32		token;
		ItemPointerData tid;

		index_rescan(chunk->scan, keys, 2, NULL, 0);
		if (!index_getnext_slot(chunk->scan, ForwardScanDirection, chunk->slot))
			return false;
		xid = TransactionIdIsValid(chunk->dirty.xmin) ?
			chunk->dirty.xmin : chunk->dirty.xmax;
		if (!TransactionIdIsValid(xid))
			return true;

		/* Nobody shall have to wait for our pins meanwhile. */
		token = chunk->dirty.speculativeToken;
		tid = chunk->slot->tts_tid;
		ExecClearTuple(chunk->slot);
		index_rescan(chunk->scan, keys, 2, NULL, 0);
		if (token != 0)
			SpeculativeInsertionWait(xid, token);
		else
			XactLockTableWait(xid, chunk->heap, &tid, XLTW_InsertIndex);
	}
}

/*
 * Raises an error when an entry that was found is not visible to the
 * transaction, whose snapshot is older: to go by it would mix two points in
 * time.
 */
static void
check_visible(ReceivedChunk *chunk, Datum event_id)
{
	bool		isnull;
	TransactionId xmin;

	if (!IsolationUsesXactSnapshot())
		return;
	xmin = DatumGetTransactionId(slot_getsysattr(chunk->slot,
												 MinTransactionIdAttributeNumber,
												 &isnull));
	if (TransactionIdIsCurrentTransactionId(xmin) ||
		table_tuple_satisfies_snapshot(chunk->heap, chunk->slot,
									   GetTransactionSnapshot()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent receipt of message \"%s\"",
					TextDatumGetCString(event_id)),
			 errdetail("A transaction that this one does not see has received it."),
			 errhint("Retry the transaction.")));
}

/*
 * Looks for an entry in all chunks; returns the one that has it, or NULL.
 */
static ReceivedChunk *
find_entry(ReceivedTable *table, Datum event_id)
{
	for (int i = 0; i < RING_SIZE; i++)
	{
		ReceivedChunk *chunk = &table->chunks[i];

		if (chunk->heap != NULL && find_in_chunk(table, chunk, event_id))
		{
			check_visible(chunk, event_id);
			return chunk;
		}
	}
	return NULL;
}

/*
 * Raises an error when a message came before with another content.  Entries
 * without a hash fit any content.
 */
static void
check_hash(ReceivedTable *table, ReceivedChunk *chunk, Datum event_id,
		   Datum payload_hash)
{
	bool		isnull;
	Datum		known = slot_getattr(chunk->slot, RECEIVED_PAYLOAD_HASH + 1,
									 &isnull);

	if (isnull || payload_hash == (Datum) 0 ||
		DatumGetBool(DirectFunctionCall2(byteaeq, known, payload_hash)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION),
			 errmsg("message \"%s\" came to consumer \"%s\" before, with another content",
					TextDatumGetCString(event_id),
					TextDatumGetCString(table->consumer)),
			 errdetail("Its payload_hash was %s then, and is %s now.",
					   DatumGetCString(DirectFunctionCall1(byteaout, known)),
					   DatumGetCString(DirectFunctionCall1(byteaout, payload_hash))),
			 errhint("Whoever sends messages must give each one an id of its own, and send a repeated one unchanged.")));
}

/* Fills a slot with a new entry; payload_hash 0 is NULL. */
static void
fill_slot(ReceivedTable *table, TupleTableSlot *slot, Datum event_id,
		  Datum payload_hash)
{
	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, RECEIVED_NCOLUMNS * sizeof(bool));
	slot->tts_values[RECEIVED_AT] =
		TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	slot->tts_values[RECEIVED_CHUNK] = Int16GetDatum(table->current);
	slot->tts_values[RECEIVED_CONSUMER] = table->consumer;
	slot->tts_values[RECEIVED_EVENT_ID] = event_id;
	slot->tts_values[RECEIVED_PAYLOAD_HASH] = payload_hash;
	slot->tts_isnull[RECEIVED_PAYLOAD_HASH] = payload_hash == (Datum) 0;
	ExecStoreVirtualTuple(slot);
}

/* Has the ring moved on since the table was opened? */
static bool
ring_has_moved(const ReceivedTable *table)
{
	return ring_position(RING_RECEIVED) != table->position;
}

/*
 * Inserts an entry that was not found.  Returns false, and has inserted
 * nothing, when somebody else did at the same time, or the ring has moved on.
 */
static bool
insert_entry(ReceivedTable *table, Datum event_id, Datum payload_hash)
{
	Relation	heap = table->target->ri_RelationDesc;
	TupleTableSlot *slot = table_slot_create(heap, &table->estate->es_tupleTable);
	TransactionId xid = GetCurrentTransactionId();
	uint32		token = SpeculativeInsertionLockAcquire(xid);
	bool		conflict = false;

	fill_slot(table, slot, event_id, payload_hash);
	table_tuple_insert_speculative(heap, slot, GetCurrentCommandId(true), 0,
								   NULL, token);
	compat_insert_index_tuples(table->target, slot, table->estate, &conflict);
	if (!conflict && ring_has_moved(table))
		conflict = true;
	table_tuple_complete_speculative(heap, slot, token, !conflict);
	SpeculativeInsertionLockRelease(xid);
	return !conflict;
}

/*
 * Adds the entry of a message, whose consumer and event_id are text Datums
 * and whose hash is a bytea Datum or 0.  Returns false when it is there
 * already.  Waits for a transaction that is about to add it.  Raises an error
 * when it is there with another hash.
 */
bool
received_add(Datum consumer, Datum event_id, Datum payload_hash)
{
	bool		added = false;
	bool		found = false;

	while (!added && !found)
	{
		ReceivedTable table;
		ReceivedChunk *chunk;

		CHECK_FOR_INTERRUPTS();
		open_table(&table, consumer);
		chunk = find_entry(&table, event_id);
		if (chunk != NULL)
		{
			found = true;
			check_hash(&table, chunk, event_id, payload_hash);
		}
		else
			added = insert_entry(&table, event_id, payload_hash);
		close_table(&table);
	}
	return added;
}

/* An event_id of a batch, to be sorted. */
typedef struct BatchEntry
{
	Datum		event_id;
	int			number;			/* its place in the batch */
} BatchEntry;

static int
compare_event_ids(Datum a, Datum b)
{
	int			len_a = VARSIZE_ANY_EXHDR(DatumGetPointer(a));
	int			len_b = VARSIZE_ANY_EXHDR(DatumGetPointer(b));
	int			order = memcmp(VARDATA_ANY(DatumGetPointer(a)),
							   VARDATA_ANY(DatumGetPointer(b)),
							   Min(len_a, len_b));

	return order != 0 ? order : len_a - len_b;
}

static int
compare_entries(const void *a, const void *b)
{
	const BatchEntry *x = a;
	const BatchEntry *y = b;
	int			order = compare_event_ids(x->event_id, y->event_id);

	return order != 0 ? order : x->number - y->number;
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

/* Inserts rows, which were not found, into table and indexes. */
static void
insert_rows(ReceivedTable *table, TupleTableSlot **slots, int n)
{
	table_multi_insert(table->target->ri_RelationDesc, slots, n,
					   GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < n; i++)
	{
		bool		conflict = false;

		compat_insert_index_tuples(table->target, slots[i], table->estate,
								   &conflict);
		if (conflict)
			raise_batch_conflict();
		ResetPerTupleExprContext(table->estate);
	}
}

/*
 * Adds the entries of n messages, whose consumer and event_ids are text
 * Datums, not compressed.  fresh[i] becomes false when message i is there
 * already, or came earlier in the batch.  Waits for transactions that are
 * about to add the same.  Raises a serialization failure, and is to be
 * repeated in a new transaction, when another transaction got in between.
 */
void
received_add_batch(Datum consumer, const Datum *event_ids, int n, bool *fresh)
{
	ReceivedTable table;
	BatchEntry *entries;
	TupleTableSlot *slots[BATCH_ROWS] = {NULL};
	int			nrows = 0;

	if (n == 0)
		return;
	open_table(&table, consumer);
	entries = palloc(n * sizeof(BatchEntry));
	for (int i = 0; i < n; i++)
	{
		entries[i].event_id = event_ids[i];
		entries[i].number = i;
	}
	qsort(entries, n, sizeof(BatchEntry), compare_entries);

	for (int i = 0; i < n; i++)
	{
		Datum		event_id = entries[i].event_id;
		bool		repeated = i > 0 &&
		compare_event_ids(entries[i - 1].event_id, event_id) == 0;

		fresh[entries[i].number] = !repeated &&
			find_entry(&table, event_id) == NULL;
		if (!fresh[entries[i].number])
			continue;
		if (slots[nrows] == NULL)
			slots[nrows] = table_slot_create(table.target->ri_RelationDesc,
											 &table.estate->es_tupleTable);
		fill_slot(&table, slots[nrows++], event_id, (Datum) 0);
		if (nrows == BATCH_ROWS)
		{
			insert_rows(&table, slots, nrows);
			nrows = 0;
		}
	}
	if (nrows > 0)
		insert_rows(&table, slots, nrows);
	if (ring_has_moved(&table))
		raise_batch_conflict();
	close_table(&table);
}
