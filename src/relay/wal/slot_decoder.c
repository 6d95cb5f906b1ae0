/*-------------------------------------------------------------------------
 *
 * slot_decoder.c
 *	  The relay's slot, and decoding from it in this process.
 *
 * There is no walsender and no socket: the relay reads WAL by itself and the
 * output plugin hands it each event by a function call.  Waiting for WAL is
 * the caller's affair; slot_decoder_next() returns at once when there is none.
 *
 * This file owns MyReplicationSlot and the decoding context.  Decoding runs
 * outside of any transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/slot_decoder.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "replication/syncrep.h"
#include "replication/walsender_private.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "core/compat.h"
#include "core/replication_slot.h"
#include "relay/wal/decoding_context.h"
#include "relay/wal/foreign_changes.h"
#include "relay/wal/output_plugin.h"
#include "relay/wal/running_xacts.h"

/*
 * What a decoding context may keep after a huge transaction, before it is
 * made anew.
 */
#define CONTEXT_KEEP_BYTES (24 * 1024 * 1024)

/* WAL between two such renewals: each reads again from the restart position. */
#define TRIM_INTERVAL_BYTES (64 * 1024 * 1024)

/* How much of it may be read again. */
#define TRIM_REREAD_BYTES (16 * 1024 * 1024)

static LogicalDecodingContext *context = NULL;
static const EventSink *context_sink = NULL;

/*
 * Writes the slot's name, which depends on the database alone, to name
 * (NAMEDATALEN bytes).
 */
void
slot_decoder_slot_name(char *name)
{
	slot_name_of(MyDatabaseId, name);
}

/*
 * Looks at the slot without acquiring it.
 */
SlotCondition
slot_decoder_slot_condition(void)
{
	return slot_condition_of(MyDatabaseId);
}

/*
 * Drops the slot.  Raises an error when another process uses it.
 */
void
slot_decoder_slot_drop(void)
{
	/* That alone drops a slot that was not kept yet. */
	if (MyReplicationSlot)
		ReplicationSlotRelease();
	slot_forget(MyDatabaseId);
}

/*
 * The slot is created (slot_creation.c).  From here on it holds back the
 * vacuum of catalogs only, as any logical slot does.
 */
void
slot_decoder_slot_unpin(void)
{
	SpinLockAcquire(&MyReplicationSlot->mutex);
	MyReplicationSlot->effective_xmin = InvalidTransactionId;
	SpinLockRelease(&MyReplicationSlot->mutex);
	ReplicationSlotsComputeRequiredXmin(false);
}

/*
 * Makes the slot outlive this process.
 */
void
slot_decoder_slot_keep(void)
{
	compat_slot_survive_failover();
	ReplicationSlotPersist();
}

/* Makes a decoding context at the slot's position. */
static void
open_context(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	context = decoding_context_open();
	plugin_set_sink(context, context_sink);
	MemoryContextSwitchTo(old);

	/* Catalog entries read so far may not fit the past. */
	InvalidateSystemCaches();
}

/*
 * Acquires the slot, unless it was just created, and starts to decode into
 * sink, which must stay.
 */
void
slot_decoder_open(const EventSink *sink)
{
	char		name[NAMEDATALEN];

	context_sink = sink;
	if (MyReplicationSlot == NULL)
	{
		CheckLogicalDecodingRequirements();
		slot_decoder_slot_name(name);
		compat_slot_acquire(name);
	}
	open_context();
}

/* What synchronous standbys have confirmed, in the sense of the server's
 * synchronous_commit. */
static XLogRecPtr
synchronous_position(void)
{
	int			mode;
	XLogRecPtr	position;

	switch (synchronous_commit)
	{
		case SYNCHRONOUS_COMMIT_REMOTE_WRITE:
			mode = SYNC_REP_WAIT_WRITE;
			break;
		case SYNCHRONOUS_COMMIT_REMOTE_APPLY:
			mode = SYNC_REP_WAIT_APPLY;
			break;
		default:
			mode = SYNC_REP_WAIT_FLUSH;
	}
	LWLockAcquire(SyncRepLock, LW_SHARED);
	position = WalSndCtl->lsn[mode];
	LWLockRelease(SyncRepLock);
	return position;
}

/*
 * How far events may be published: WAL that is safe on disk and, when the
 * server has synchronous standbys, on those.  An event must not outlive its
 * transaction in a crash or a failover.
 */
XLogRecPtr
slot_decoder_limit(void)
{
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);

	if (SyncRepRequested() && SyncRepStandbyNames != NULL &&
		SyncRepStandbyNames[0] != '\0')
		return Min(flushed, synchronous_position());
	return flushed;
}

/*
 * Decodes one record that ends at or before limit.  Returns false when there
 * is none (yet).
 */
bool
slot_decoder_next(XLogRecPtr limit)
{
	if (!decoding_context_read(context, limit))
		return false;
	running_note(context->reader);
	foreign_changes_process_record(context);
	return true;
}

/*
 * How far decoding has come, or would have come by now when there is no
 * decoder.  A context begins to read at the slot's restart position, but what
 * is before the confirmed one is done with.
 */
XLogRecPtr
slot_decoder_position(void)
{
	if (context == NULL)
		return GetFlushRecPtr(NULL);
	return Max(context->reader->EndRecPtr,
			   MyReplicationSlot->data.confirmed_flush);
}

/*
 * End of the WAL that has been written.  When a page is full, the server's
 * insert position is behind the header of the next one, which nobody may have
 * begun: nothing ends there, and nobody can wait for it.
 */
XLogRecPtr
slot_decoder_wal_end(void)
{
	XLogRecPtr	position = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(position, wal_segment_size) == SizeOfXLogLongPHD)
		return position - SizeOfXLogLongPHD;
	if (position % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		return position - SizeOfXLogShortPHD;
	return position;
}

/*
 * The slot's confirmed position.
 */
XLogRecPtr
slot_decoder_confirmed(void)
{
	return MyReplicationSlot->data.confirmed_flush;
}

/*
 * Does this process decode?  If not, what it publishes comes from the table.
 */
bool
slot_decoder_is_open(void)
{
	return context != NULL;
}

/*
 * Has this process acquired the slot?
 */
bool
slot_decoder_has_slot(void)
{
	return MyReplicationSlot != NULL;
}

/*
 * Bytes of WAL that the server keeps for the slot: those that hold what is not
 * acknowledged, and those that are done with but for transactions which were
 * open in them.  A slot that is being created is there for the latter.
 */
void
slot_decoder_held_wal(uint64 *owed, uint64 *pinned)
{
	XLogRecPtr	end = slot_decoder_wal_end();
	XLogRecPtr	confirmed;

	*owed = *pinned = 0;
	if (MyReplicationSlot == NULL ||
		XLogRecPtrIsInvalid(MyReplicationSlot->data.restart_lsn))
		return;
	confirmed = MyReplicationSlot->data.confirmed_flush;
	if (XLogRecPtrIsInvalid(confirmed))
		confirmed = end;
	if (confirmed < end)
		*owed = end - confirmed;
	if (MyReplicationSlot->data.restart_lsn < confirmed)
		*pinned = confirmed - MyReplicationSlot->data.restart_lsn;
}

/*
 * The first transaction that is still open, as far as has been decoded; or
 * none.
 */
TransactionId
slot_decoder_oldest_open(void)
{
	ReorderBufferTXN *oldest = ReorderBufferGetOldestTXN(context->reorder);

	return oldest ? oldest->xid : InvalidTransactionId;
}

/*
 * Bytes of WAL since the first transaction began that is still open, as far as
 * has been decoded; all that the slot holds while it is being created.
 */
uint64
slot_decoder_open_wal(void)
{
	ReorderBufferTXN *oldest;

	if (MyReplicationSlot == NULL)
		return 0;
	if (context == NULL)
		return slot_decoder_wal_end() - MyReplicationSlot->data.restart_lsn;
	oldest = ReorderBufferGetOldestTXN(context->reorder);
	return oldest ? context->reader->EndRecPtr - oldest->first_lsn : 0;
}

/*
 * Tells the slot that everything up to position is done with, so that the
 * server may remove that WAL.  Not necessarily saved to disk: see
 * slot_decoder_save_slot().
 */
void
slot_decoder_confirm(XLogRecPtr position)
{
	LogicalConfirmReceivedLocation(position);
}

/*
 * Saves the slot and lets go of WAL it no longer needs.
 */
void
slot_decoder_save_slot(void)
{
	ReplicationSlotMarkDirty();
	ReplicationSlotSave();
	ReplicationSlotsComputeRequiredLSN();
}

/*
 * Saves the slot as the process ends, so that an orderly shutdown repeats
 * nothing.  An error may have left locks behind, which newer servers release
 * by themselves.
 */
void
slot_decoder_leave(void)
{
	if (context == NULL || MyReplicationSlot == NULL)
		return;
	LWLockReleaseAll();
	slot_decoder_save_slot();
}

/*
 * Gives back the memory that a huge transaction left in the decoding context,
 * by making it anew.  Returns whether it did.  Only when everything decoded
 * is confirmed, since decoding starts over from there; and when the slot has
 * moved on, or all that WAL, huge transaction included, would be read again.
 */
bool
slot_decoder_trim(void)
{
	static XLogRecPtr trimmed_at = InvalidXLogRecPtr;
	XLogRecPtr	position = context->reader->EndRecPtr;

	if (position < MyReplicationSlot->data.confirmed_flush ||
		position < trimmed_at + TRIM_INTERVAL_BYTES ||
		position > MyReplicationSlot->data.restart_lsn + TRIM_REREAD_BYTES ||
		MemoryContextMemAllocated(context->context, true) < CONTEXT_KEEP_BYTES)
		return false;
	trimmed_at = position;
	FreeDecodingContext(context);
	open_context();
	return true;
}
