/*-------------------------------------------------------------------------
 *
 * decode.c
 *	  The relay's slot, and decoding from it in this process.
 *
 * There is no walsender and no socket: the relay reads WAL by itself and the
 * output plugin hands it each event by a function call.  Waiting for WAL is
 * the caller's affair; decode_next() returns at once when there is none.
 *
 * This file owns MyReplicationSlot and the decoding context.  Decoding runs
 * outside of any transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/decode.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "replication/snapbuild.h"
#include "replication/syncrep.h"
#include "replication/walsender_private.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/slot.h"
#include "base/worker.h"
#include "relay/running.h"

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
static XLogRecPtr read_limit = InvalidXLogRecPtr;

/*
 * Writes the slot's name, which depends on the database alone, to name
 * (NAMEDATALEN bytes).
 */
void
decode_slot_name(char *name)
{
	slot_name_of(MyDatabaseId, name);
}

/*
 * Looks at the slot without acquiring it.
 */
SlotCondition
decode_slot_condition(void)
{
	return slot_condition_of(MyDatabaseId);
}

/*
 * Drops the slot.  Raises an error when another process uses it.
 */
void
decode_slot_drop(void)
{
	/* That alone drops a slot that was not kept yet. */
	if (MyReplicationSlot)
		ReplicationSlotRelease();
	slot_forget(MyDatabaseId);
}

/* Nothing goes through the writer: the sink takes the events. */
static void
unused_write(LogicalDecodingContext *ctx, XLogRecPtr lsn, TransactionId xid,
			 bool last_write)
{
	elog(ERROR, "output plugin wrote although it has a sink");
}

/*
 * Reads a page of WAL up to read_limit.  Returns -1 when the WAL is not there
 * yet.
 */
static int
read_page(XLogReaderState *state, XLogRecPtr page, int needed,
		  XLogRecPtr record, char *buffer)
{
	TimeLineID	timeline;
	XLogRecPtr	end = read_limit;
	WALReadError error;
	int			count;

	if (page + needed > end)
		return -1;
	(void) GetFlushRecPtr(&timeline);
	XLogReadDetermineTimeline(state, page, needed, timeline);
	if (state->currTLI != timeline)
		end = Min(end, state->currTLIValidUntil);
	if (page + needed > end)
		return -1;
	count = (int) Min(end - page, XLOG_BLCKSZ);
	if (!WALRead(state, buffer, page, count, state->currTLI, &error))
		WALReadRaiseError(&error);
	return count;
}

/*
 * Waits for transactions that the snapshot shows as committed and that have
 * not quite finished: their commit record is written, but they still hold
 * their place among the running ones, perhaps because they wait for a
 * synchronous standby.  Until they are done their rows look aborted.
 */
static void
wait_for_committing(Snapshot snapshot)
{
	TransactionId xid = snapshot->xmin;

	while (TransactionIdPrecedes(xid, snapshot->xmax))
	{
		if (!XidInMVCCSnapshot(xid, snapshot) && TransactionIdIsInProgress(xid))
			XactLockTableWait(xid, NULL, NULL, XLTW_None);
		TransactionIdAdvance(xid);
	}
}

/*
 * To be called when a decoding context was made.  That declares this process
 * one that only decodes: others leave it out of their snapshots and horizons.
 * But between records it runs transactions, which write, and which others
 * would then take for aborted while they run.
 */
static void
appear_in_snapshots(void)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	MyProc->statusFlags &= ~PROC_IN_LOGICAL_DECODING;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

/*
 * Creates the slot, which goes away with this process until decode_slot_keep()
 * is called, and waits until decoding can start.  Leaves open a transaction
 * whose snapshot shows exactly what committed before the slot's first
 * position: with what the slot will deliver it makes all there is, without a
 * gap or an overlap.  Returns that snapshot.
 *
 * Waits for all transactions that are running to end.
 */
Snapshot
decode_slot_create(void)
{
	char		name[NAMEDATALEN];
	LogicalDecodingContext *ctx;
	Snapshot	snapshot;

	decode_slot_name(name);
	CheckLogicalDecodingRequirements();
	compat_slot_create(name);
	ctx = CreateInitDecodingContext(WORKER_LIBRARY, NIL, true,
									InvalidXLogRecPtr,
									XL_ROUTINE(.page_read = read_local_xlog_page,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									unused_write, unused_write, NULL);
	appear_in_snapshots();
	DecodingContextFindStartpoint(ctx);

	worker_begin();
	XactIsoLevel = XACT_REPEATABLE_READ;
	XactReadOnly = true;
	RestoreTransactionSnapshot(SnapBuildInitialSnapshot(ctx->snapshot_builder),
							   MyProc);
	/* The builder's snapshot goes with it; the transaction has a copy. */
	FreeDecodingContext(ctx);
	snapshot = GetTransactionSnapshot();
	wait_for_committing(snapshot);
	return snapshot;
}

/*
 * The snapshot of decode_slot_create() is not needed any more, its transaction
 * has ended.  From here on the slot holds back the vacuum of catalogs only, as
 * any logical slot does.
 */
void
decode_slot_unpin(void)
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
decode_slot_keep(void)
{
	ReplicationSlotPersist();
}

/* Makes a decoding context at the slot's position. */
static void
open_context(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	context = CreateDecodingContext(InvalidXLogRecPtr, NIL, false,
									XL_ROUTINE(.page_read = read_page,
											   .segment_open = wal_segment_open,
											   .segment_close = wal_segment_close),
									unused_write, unused_write, NULL);
	appear_in_snapshots();
	plugin_set_sink(context, context_sink);
	MemoryContextSwitchTo(old);
	XLogBeginRead(context->reader, MyReplicationSlot->data.restart_lsn);

	/* Catalog entries read so far may not fit the past. */
	InvalidateSystemCaches();
}

/*
 * Acquires the slot, unless it was just created, and starts to decode into
 * sink, which must stay.
 */
void
decode_open(const EventSink *sink)
{
	char		name[NAMEDATALEN];

	context_sink = sink;
	if (MyReplicationSlot == NULL)
	{
		CheckLogicalDecodingRequirements();
		decode_slot_name(name);
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
decode_limit(void)
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
decode_next(XLogRecPtr limit)
{
	char	   *error = NULL;

	if (context->reader->EndRecPtr >= limit)
		return false;
	read_limit = limit;
	if (XLogReadRecord(context->reader, &error) == NULL)
	{
		if (error)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read WAL at %X/%X: %s",
							LSN_FORMAT_ARGS(context->reader->EndRecPtr), error)));
		return false;
	}
	running_note(context->reader);
	LogicalDecodingProcessRecord(context, context->reader);
	return true;
}

/*
 * How far decoding has come, or would have come by now when there is no
 * decoder.  A context begins to read at the slot's restart position, but what
 * is before the confirmed one is done with.
 */
XLogRecPtr
decode_position(void)
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
decode_wal_end(void)
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
decode_confirmed(void)
{
	return MyReplicationSlot->data.confirmed_flush;
}

/*
 * Has this process acquired the slot?
 */
bool
decode_has_slot(void)
{
	return MyReplicationSlot != NULL;
}

/*
 * Bytes of WAL that the server keeps for the slot; 0 when there is none.
 */
uint64
decode_held_wal(void)
{
	XLogRecPtr	now = decode_wal_end();

	if (MyReplicationSlot == NULL ||
		XLogRecPtrIsInvalid(MyReplicationSlot->data.restart_lsn))
		return 0;
	return now - MyReplicationSlot->data.restart_lsn;
}

/*
 * Tells the slot that everything up to position is done with, so that the
 * server may remove that WAL.  Not necessarily saved to disk: see
 * decode_save_slot().
 */
void
decode_confirm(XLogRecPtr position)
{
	LogicalConfirmReceivedLocation(position);
}

/*
 * Saves the slot and lets go of WAL it no longer needs.
 */
void
decode_save_slot(void)
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
decode_leave(void)
{
	if (context == NULL || MyReplicationSlot == NULL)
		return;
	LWLockReleaseAll();
	decode_save_slot();
}

/*
 * Gives back the memory that a huge transaction left in the decoding context,
 * by making it anew.  Returns whether it did.  Only when everything decoded
 * is confirmed, since decoding starts over from there; and when the slot has
 * moved on, or all that WAL, huge transaction included, would be read again.
 */
bool
decode_trim(void)
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
