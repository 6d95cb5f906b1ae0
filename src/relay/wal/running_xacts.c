/*-------------------------------------------------------------------------
 *
 * running_xacts.c
 *	  Snapshots in the WAL.
 *
 * Several times a minute, and at checkpoints, the server writes down which
 * transactions are running.  That is a snapshot, and no transaction that it
 * shows has its commit record after it.  So when all that is in front of it is
 * on Kafka, it is a watermark.
 *
 * While the relay lags behind it has such snapshots written more often, so
 * that it can make use of them when it gets there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/running_xacts.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "storage/standby.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "relay/state/watermark.h"
#include "relay/state/xid_array.h"

#define WRITE_INTERVAL_MS 1000

/* The last snapshot that was met; NULL when it was taken. */
static Watermark *last = NULL;

/*
 * What the record that was just read tells of running transactions; NULL when
 * it is of another kind.
 */
xl_running_xacts *
running_in_record(XLogReaderState *reader)
{
	if (XLogRecGetRmid(reader) != RM_STANDBY_ID ||
		(XLogRecGetInfo(reader) & ~XLR_INFO_MASK) != XLOG_RUNNING_XACTS)
		return NULL;
	return (xl_running_xacts *) XLogRecGetData(reader);
}

/*
 * The snapshot, as text, in which of all transactions in front of "end" those
 * of a list are running.
 */
char *
running_snapshot(TransactionId end, const TransactionId *running, int nrunning,
				 MemoryContext context)
{
	FullTransactionId next = ReadNextFullTransactionId();
	uint64		xmax = full_xid(end, next);
	uint64	   *xids = palloc((nrunning + 1) * sizeof(uint64));
	char	   *result;
	StringInfoData buf;

	for (int i = 0; i < nrunning; i++)
		xids[i] = full_xid(running[i], next);
	qsort(xids, nrunning, sizeof(uint64), compare_xids);
	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 nrunning > 0 ? xids[0] : xmax, xmax);
	for (int i = 0; i < nrunning; i++)
		appendStringInfo(&buf, i > 0 ? "," UINT64_FORMAT : UINT64_FORMAT, xids[i]);
	result = MemoryContextStrdup(context, buf.data);
	pfree(buf.data);
	pfree(xids);
	return result;
}

/*
 * Keeps what the record that was just read tells of running transactions, if
 * it is of that kind.
 */
void
running_note(XLogReaderState *reader)
{
	xl_running_xacts *running = running_in_record(reader);

	if (running == NULL)
		return;
	if (last == NULL)
		last = MemoryContextAlloc(TopMemoryContext, sizeof(Watermark));
	else
		pfree(last->snapshot);
	last->snapshot = running_snapshot(running->nextXid, running->xids,
									  running->xcnt, TopMemoryContext);
	last->lsn = reader->EndRecPtr;
}

/*
 * The last snapshot that was met in the WAL and the position behind it; NULL
 * when there was none since the last call.  The caller frees both.
 */
Watermark *
running_take(void)
{
	Watermark  *taken = last;

	last = NULL;
	return taken;
}

/*
 * Has the server write a snapshot to the WAL, if there is other WAL since and
 * some time has passed.  Can be called anywhere, from a decoding callback too.
 */
void
running_write(void)
{
	static TimestampTz written_at = 0;
	static XLogRecPtr written = InvalidXLogRecPtr;
	TimestampTz now = monotonic_now();

	/* Other such snapshots do not count. */
	if (!XLogStandbyInfoActive() ||
		!TimestampDifferenceExceeds(written_at, now, WRITE_INTERVAL_MS) ||
		GetLastImportantRecPtr() < written)
		return;
	(void) LogStandbySnapshot();
	written = GetXLogInsertRecPtr();
	written_at = now;
}
