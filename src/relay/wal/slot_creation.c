/*-------------------------------------------------------------------------
 *
 * slot_creation.c
 *	  Creates the relay's slot, without waiting for anybody.
 *
 * Decoding can start where all transactions have ended that began before the
 * server began to keep what is needed to decode them.  PostgreSQL's own way to
 * create a slot waits for them, and for how long is up to them: one that was
 * forgotten lasts for ever.  Meanwhile nothing would be published.  So here WAL
 * is read as far as it goes, and whoever creates the slot does something else
 * until he comes here again.
 *
 * A slot holds WAL from its creation on.  So there is none before those
 * transactions have ended that ran when the first one was wanted.
 *
 * The server writes to the WAL which transactions are running, and the builder
 * of snapshots (snapbuild.c there) goes by these records:
 *
 *	 the first		it waits for all transactions in it to end; from there on
 *					it knows what committed
 *	 the second		is a later one in which none of those runs; it waits for
 *					those in this one, from where all changes are complete
 *	 the third		is a later one in which none of those runs: the start
 *
 * If nothing runs in one of them, that is the start.  The builder waits by
 * itself, in our process; so it gets a record that it would wait at when it
 * need not wait any more.
 *
 * The snapshot that belongs to the start shows all that committed before it and
 * nothing else, and makes with what the slot will deliver all there is, without
 * a gap or an overlap.  It shows the transactions that do not run in the record
 * of the start; and of those that do, the ones whose commit record is in front
 * of it, which had not quite finished: perhaps they wait for a synchronous
 * standby.  They began behind the second record, so all their commit records
 * have been read.  Until they have finished their rows look aborted.
 *
 * PostgreSQL's snapshot for the purpose is the same, but lists each transaction
 * that did not commit, and gives up when there are many.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/slot_creation.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/slot.h"
#include "replication/snapbuild.h"
#include "storage/procarray.h"
#include "storage/standby.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/background_worker.h"
#include "relay/wal/decoding_context.h"
#include "relay/wal/running_xacts.h"
#include "relay/wal/slot_decoder.h"

#define SEEK_RECORDS 100000		/* read at once, before others are due */

/* Some transactions, in TopMemoryContext. */
typedef struct Transactions
{
	TransactionId *xids;
	int			count;
	int			size;
} Transactions;

static Transactions before = {0};	/* ran when a slot was first wanted */
static bool before_known = false;

/* While the slot is being created. */
static LogicalDecodingContext *context = NULL;
static bool kept_back = false;	/* the record read last, from the builder */
static TransactionId phase_end; /* of the builder: all before have to end */
static Transactions committed = {0};	/* since the builder's last record */

static bool more = false;		/* there is WAL that can be read at once */

/* When the start is found. */
static char *snapshot = NULL;
static Transactions committing = {0};	/* it shows them, and they still ran */

static void
add(Transactions *transactions, TransactionId xid)
{
	if (transactions->count == transactions->size)
	{
		transactions->size = Max(64, 2 * transactions->size);
		transactions->xids = transactions->xids ?
			repalloc_huge(transactions->xids,
						  transactions->size * sizeof(TransactionId)) :
			MemoryContextAlloc(TopMemoryContext,
							   transactions->size * sizeof(TransactionId));
	}
	transactions->xids[transactions->count++] = xid;
}

/* The oldest of some transactions that is still running, or none. */
static TransactionId
oldest_running(const TransactionId *xids, int n)
{
	TransactionId oldest = InvalidTransactionId;

	for (int i = 0; i < n; i++)
		if (TransactionIdIsInProgress(xids[i]) &&
			(!TransactionIdIsValid(oldest) ||
			 TransactionIdPrecedes(xids[i], oldest)))
			oldest = xids[i];
	return oldest;
}

/* Notes which transactions are running. */
static void
note_running(void)
{
	Snapshot	now;

	worker_begin();
	now = GetTransactionSnapshot();
	for (int i = 0; i < now->xcnt; i++)
		add(&before, now->xip[i]);
	CommitTransactionCommand();
	before_known = true;
}

/* Creates the slot, unless it would have to wait for a transaction. */
static bool
create_slot(TransactionId *waits_for)
{
	char		name[NAMEDATALEN];
	MemoryContext old;

	if (!before_known)
		note_running();
	*waits_for = oldest_running(before.xids, before.count);
	if (TransactionIdIsValid(*waits_for))
		return false;
	slot_decoder_slot_name(name);
	old = MemoryContextSwitchTo(TopMemoryContext);
	context = decoding_context_create_slot(name);
	MemoryContextSwitchTo(old);
	return true;
}

/* If the record that was read last is a commit, notes it. */
static void
note_commit(XLogReaderState *reader)
{
	uint8		info = XLogRecGetInfo(reader) & XLOG_XACT_OPMASK;
	xl_xact_parsed_commit parsed;

	if (XLogRecGetRmid(reader) != RM_XACT_ID ||
		(info != XLOG_XACT_COMMIT && info != XLOG_XACT_COMMIT_PREPARED))
		return;
	ParseCommitRecord(XLogRecGetInfo(reader),
					  (xl_xact_commit *) XLogRecGetData(reader), &parsed);
	add(&committed, info == XLOG_XACT_COMMIT ? XLogRecGetXid(reader) :
		parsed.twophase_xid);
}

/* Has the builder got that far, and has its phase ended in the record? */
static bool
ends_phase(SnapBuildState phase, const xl_running_xacts *running)
{
	return SnapBuildCurrentState(context->snapshot_builder) == phase &&
		TransactionIdPrecedesOrEquals(phase_end, running->oldestRunningXid);
}

/* Is the record the start? */
static bool
is_start(const xl_running_xacts *running)
{
	return TransactionIdEquals(running->oldestRunningXid, running->nextXid) ||
		ends_phase(SNAPBUILD_FULL_SNAPSHOT, running);
}

/* Would the builder wait for the transactions in the record? */
static bool
begins_phase(const xl_running_xacts *running)
{
	return SnapBuildCurrentState(context->snapshot_builder) == SNAPBUILD_START ||
		ends_phase(SNAPBUILD_BUILDING_SNAPSHOT, running);
}

/* Makes the snapshot of the start. */
static void
make_snapshot(xl_running_xacts *running)
{
	Transactions open = {0};

	for (int i = 0; i < running->xcnt; i++)
	{
		bool		done = false;

		for (int j = 0; j < committed.count && !done; j++)
			done = committed.xids[j] == running->xids[i];
		add(done ? &committing : &open, running->xids[i]);
	}
	snapshot = running_snapshot(running->nextXid, open.xids, open.count,
								TopMemoryContext);
	if (open.xids)
		pfree(open.xids);
}

/*
 * Gives the builder the record that was read last.  Not one that it would wait
 * at: then returns false, and the transaction.  Nor a start that comes too
 * early.
 */
static bool
hand_over(XLogRecPtr not_before, TransactionId *waits_for)
{
	xl_running_xacts *running = running_in_record(context->reader);

	if (running == NULL)
		note_commit(context->reader);
	else if (is_start(running))
	{
		if (context->reader->ReadRecPtr < not_before)
			return true;
		make_snapshot(running);
	}
	else if (begins_phase(running))
	{
		*waits_for = oldest_running(running->xids, running->xcnt);
		if (TransactionIdIsValid(*waits_for))
			return false;
		phase_end = running->nextXid;
		committed.count = 0;
	}
	LogicalDecodingProcessRecord(context, context->reader);
	return true;
}

/* The builder is ready: what comes now is for the slot's stream. */
static void
finish(void)
{
	Assert(snapshot != NULL);
	SpinLockAcquire(&MyReplicationSlot->mutex);
	MyReplicationSlot->data.confirmed_flush = context->reader->EndRecPtr;
	SpinLockRelease(&MyReplicationSlot->mutex);
	FreeDecodingContext(context);
	context = NULL;
	slot_decoder_slot_unpin();
}

/*
 * Goes on to create the slot, as far as that is possible now.  Returns true
 * when it is there and decoding can start.  That is at a position that is not
 * before the given one.  The slot goes away with this process until
 * slot_decoder_slot_keep() is called.  Returns false when there is more to do later,
 * and the transaction that has to end before, if it is one.
 */
bool
slot_creation_seek(XLogRecPtr not_before, TransactionId *waits_for)
{
	*waits_for = InvalidTransactionId;
	if (context == NULL && !create_slot(waits_for))
		return false;
	if (!kept_back && !more)
	{
		/* The start is to be now. */
		(void) LogStandbySnapshot();
		XLogFlush(slot_decoder_wal_end());
	}
	more = false;
	for (int n = 0; kept_back || decoding_context_read(context, GetFlushRecPtr(NULL)); n++)
	{
		kept_back = !hand_over(not_before, waits_for);
		if (kept_back)
			return false;
		if (DecodingContextReady(context))
		{
			finish();
			return true;
		}
		if (n >= SEEK_RECORDS)
		{
			more = true;
			return false;
		}
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

/*
 * Is there more to read, without waiting for anything, than slot_creation_seek()
 * has read?
 */
bool
slot_creation_has_more(void)
{
	return more;
}

/*
 * A transaction that the start's snapshot shows, and that has not quite
 * finished, so that its rows cannot be read; or none.
 */
TransactionId
slot_creation_committing(void)
{
	return oldest_running(committing.xids, committing.count);
}

/*
 * The snapshot, as text, that shows what committed before the start.
 */
const char *
slot_creation_snapshot(void)
{
	return snapshot;
}
