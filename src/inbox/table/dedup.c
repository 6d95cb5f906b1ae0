/*-------------------------------------------------------------------------
 *
 * dedup.c
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
#include "inbox/table/dedup.h"

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

#include "core/compat.h"
#include "inbox/table/dedup_table.h"
#include "inbox/table/ring.h"

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
 * Opens the table to add entries.  What it needs is allocated in a context of
 * its own, which is current until dedup_close().  Raises an error when the
 * table is not what the extension made.
 */
void
dedup_open(ReceivedTable *table)
{
	ReceivedChunk *current;

	memset(table, 0, sizeof(*table));
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

/*
 * Closes the table.  The current chunk stays locked.
 */
void
dedup_close(ReceivedTable *table)
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
 * Sets for each chunk whether it may have any entry of a consumer.  Does not
 * wait for anybody.
 */
void
dedup_look_for_any(ReceivedTable *table, Datum consumer, bool *chunks)
{
	Datum		least = CStringGetTextDatum("");

	for (int i = 0; i < RING_SIZE; i++)
	{
		ReceivedChunk *chunk = &table->chunks[i];
		ScanKeyData keys[2];

		chunks[i] = false;
		if (chunk->heap == NULL)
			continue;
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, consumer);
		ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_TEXT_GE, least);
		index_rescan(chunk->scan, keys, 2, NULL, 0);
		chunks[i] = index_getnext_slot(chunk->scan, ForwardScanDirection,
									   chunk->slot);
		ExecClearTuple(chunk->slot);
	}
}

/*
 * Looks for an entry in a chunk; the chunk's slot is set when it is there.
 * Waits for transactions that are about to add or to remove it.
 */
static bool
find_in_chunk(ReceivedChunk *chunk, Datum consumer, Datum event_id)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_TEXTEQ, consumer);
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
 * Looks for an entry in all chunks, or in those that are marked in chunks when
 * that is not NULL.  Returns the one that has it, in its slot, or NULL.  Waits
 * for transactions that are about to add or to remove it.
 */
ReceivedChunk *
dedup_find(ReceivedTable *table, Datum consumer, Datum event_id,
		   const bool *chunks)
{
	for (int i = 0; i < RING_SIZE; i++)
	{
		ReceivedChunk *chunk = &table->chunks[i];

		if (chunk->heap != NULL && (chunks == NULL || chunks[i]) &&
			find_in_chunk(chunk, consumer, event_id))
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
check_hash(ReceivedChunk *chunk, Datum consumer, Datum event_id,
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
					TextDatumGetCString(consumer)),
			 errdetail("Its payload_hash was %s then, and is %s now.",
					   DatumGetCString(DirectFunctionCall1(byteaout, known)),
					   DatumGetCString(DirectFunctionCall1(byteaout, payload_hash))),
			 errhint("Whoever sends messages must give each one an id of its own, and send a repeated one unchanged.")));
}

/*
 * Fills a slot of the current chunk with a new entry, which is not to be older
 * than since; payload_hash 0 is NULL.
 */
void
dedup_fill_slot(ReceivedTable *table, TupleTableSlot *slot, Datum consumer,
				Datum event_id, Datum payload_hash, TimestampTz since)
{
	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, RECEIVED_NCOLUMNS * sizeof(bool));
	slot->tts_values[RECEIVED_AT] =
		TimestampTzGetDatum(Max(GetCurrentTransactionStartTimestamp(), since));
	slot->tts_values[RECEIVED_CHUNK] = Int16GetDatum(table->current);
	slot->tts_values[RECEIVED_CONSUMER] = consumer;
	slot->tts_values[RECEIVED_EVENT_ID] = event_id;
	slot->tts_values[RECEIVED_PAYLOAD_HASH] = payload_hash;
	slot->tts_isnull[RECEIVED_PAYLOAD_HASH] = payload_hash == (Datum) 0;
	ExecStoreVirtualTuple(slot);
}

/*
 * Has the ring moved on since the table was opened?
 */
bool
dedup_ring_has_moved(const ReceivedTable *table)
{
	return ring_position(RING_RECEIVED) != table->position;
}

/*
 * Inserts an entry that was not found.  Returns false, and has inserted
 * nothing, when somebody else did at the same time, or the ring has moved on.
 */
static bool
insert_entry(ReceivedTable *table, Datum consumer, Datum event_id,
			 Datum payload_hash)
{
	Relation	heap = table->target->ri_RelationDesc;
	TupleTableSlot *slot = table_slot_create(heap, &table->estate->es_tupleTable);
	TransactionId xid = GetCurrentTransactionId();
	uint32		token = SpeculativeInsertionLockAcquire(xid);
	bool		conflict = false;

	dedup_fill_slot(table, slot, consumer, event_id, payload_hash,
					DT_NOBEGIN);
	table_tuple_insert_speculative(heap, slot, GetCurrentCommandId(true), 0,
								   NULL, token);
	compat_insert_index_tuples(table->target, slot, table->estate, &conflict);
	if (!conflict && dedup_ring_has_moved(table))
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
dedup_add(Datum consumer, Datum event_id, Datum payload_hash)
{
	bool		added = false;
	bool		found = false;

	while (!added && !found)
	{
		ReceivedTable table;
		ReceivedChunk *chunk;

		CHECK_FOR_INTERRUPTS();
		dedup_open(&table);
		chunk = dedup_find(&table, consumer, event_id, NULL);
		if (chunk != NULL)
		{
			found = true;
			check_hash(chunk, consumer, event_id, payload_hash);
		}
		else
			added = insert_entry(&table, consumer, event_id, payload_hash);
		dedup_close(&table);
	}
	return added;
}
