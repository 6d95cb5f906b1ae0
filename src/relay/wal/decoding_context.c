/*-------------------------------------------------------------------------
 *
 * decoding_context.c
 *	  Decoding contexts that read WAL without waiting for it.
 *
 * There is one while the slot is created (slot_creation.c), and one to stream
 * from it (slot_decoder.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/decoding_context.h"

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogutils.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "core/background_worker.h"
#include "core/compat.h"

#define WAL_ROUTINE XL_ROUTINE(.page_read = read_page, \
							   .segment_open = wal_segment_open, \
							   .segment_close = wal_segment_close)

static XLogRecPtr read_limit = InvalidXLogRecPtr;

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
 * Called when a decoding context was made.  That declares this process
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

/* A context was made: gets it ready to read from the slot's position. */
static LogicalDecodingContext *
begin(LogicalDecodingContext *context)
{
	appear_in_snapshots();
	XLogBeginRead(context->reader, MyReplicationSlot->data.restart_lsn);
	return context;
}

/*
 * Creates a slot, which goes away with this process until it is kept, and a
 * context to find its first position with.
 */
LogicalDecodingContext *
decoding_context_create_slot(const char *name)
{
	CheckLogicalDecodingRequirements();
	compat_slot_create(name);
	return begin(CreateInitDecodingContext(WORKER_LIBRARY, NIL, true,
										   InvalidXLogRecPtr, WAL_ROUTINE,
										   unused_write, unused_write, NULL));
}

/*
 * Makes a context to decode from the slot that this process has acquired.
 */
LogicalDecodingContext *
decoding_context_open(void)
{
	return begin(CreateDecodingContext(InvalidXLogRecPtr, NIL, false,
									   WAL_ROUTINE, unused_write,
									   unused_write, NULL));
}

/*
 * Reads a record that ends at or before limit.  Returns false when there is
 * none (yet).
 */
bool
decoding_context_read(LogicalDecodingContext *context, XLogRecPtr limit)
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
	return true;
}
