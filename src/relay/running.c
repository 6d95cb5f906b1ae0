/*-------------------------------------------------------------------------
 *
 * running.c
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

#include "relay/running.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "lib/stringinfo.h"
#include "storage/standby.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/steady.h"
#include "relay/xids.h"

#define WRITE_INTERVAL_MS 1000

/* The last snapshot that was met; NULL when it was taken. */
static Watermark *last = NULL;

/*
 * Keeps what the record that was just read tells of running transactions, if
 * it is of that kind.
 */
void
running_note(XLogReaderState *reader)
{
	xl_running_xacts *running = (xl_running_xacts *) XLogRecGetData(reader);
	FullTransactionId next;
	uint64		xmax;
	uint64	   *xids;
	StringInfoData buf;

	if (XLogRecGetRmid(reader) != RM_STANDBY_ID ||
		(XLogRecGetInfo(reader) & ~XLR_INFO_MASK) != XLOG_RUNNING_XACTS)
		return;
	next = ReadNextFullTransactionId();
	xmax = full_xid(running->nextXid, next);
	xids = palloc((running->xcnt + 1) * sizeof(uint64));
	for (int i = 0; i < running->xcnt; i++)
		xids[i] = full_xid(running->xids[i], next);
	qsort(xids, running->xcnt, sizeof(uint64), compare_xids);
	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 running->xcnt > 0 ? xids[0] : xmax, xmax);
	for (int i = 0; i < running->xcnt; i++)
		appendStringInfo(&buf, i > 0 ? "," UINT64_FORMAT : UINT64_FORMAT, xids[i]);
	if (last == NULL)
		last = MemoryContextAlloc(TopMemoryContext, sizeof(Watermark));
	else
		pfree(last->snapshot);
	last->snapshot = MemoryContextStrdup(TopMemoryContext, buf.data);
	last->lsn = reader->EndRecPtr;
	pfree(buf.data);
	pfree(xids);
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
	TimestampTz now = steady_now();

	/* Other such snapshots do not count. */
	if (!XLogStandbyInfoActive() ||
		!TimestampDifferenceExceeds(written_at, now, WRITE_INTERVAL_MS) ||
		GetLastImportantRecPtr() < written)
		return;
	(void) LogStandbySnapshot();
	written = GetXLogInsertRecPtr();
	written_at = now;
}
