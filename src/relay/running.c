/*-------------------------------------------------------------------------
 *
 * running.c
 *	  Snapshots that the server itself writes to the WAL.
 *
 * Several times a minute, and at checkpoints, it writes down which
 * transactions are running.  That is a snapshot, and no transaction that it
 * shows has its commit record after it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/running.h"

#include "access/rmgr.h"
#include "access/transam.h"
#include "lib/stringinfo.h"
#include "storage/standbydefs.h"
#include "utils/memutils.h"

#include "relay/xids.h"

/* The last snapshot that was met, as text; NULL when it was taken. */
static char *last_snapshot = NULL;
static XLogRecPtr last_lsn = InvalidXLogRecPtr;

/* The transaction id with its epoch; "next" is from now, so it is later. */
static uint64
full_xid(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return ((uint64) epoch << 32) | xid;
}

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
	if (last_snapshot)
		pfree(last_snapshot);
	last_snapshot = MemoryContextStrdup(TopMemoryContext, buf.data);
	last_lsn = reader->EndRecPtr;
	pfree(buf.data);
	pfree(xids);
}

/*
 * The last snapshot that was met in the WAL, as text, and its position; NULL
 * when there was none since the last call.  The caller frees it.
 */
char *
running_take(XLogRecPtr *lsn)
{
	char	   *snapshot = last_snapshot;

	last_snapshot = NULL;
	*lsn = last_lsn;
	return snapshot;
}
