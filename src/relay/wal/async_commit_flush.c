/*-------------------------------------------------------------------------
 *
 * async_commit_flush.c
 *	  Writes WAL to disk that the server's WAL writer leaves.
 *
 * What was committed with synchronous_commit = off is published once the WAL
 * writer has made it safe, and so is a watermark taken after it.  The WAL
 * writer does that every wal_writer_delay, by the time of day: when the clock
 * is set back, it rests for as long as that.  Events must not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/async_commit_flush.h"

#include "access/xlog.h"
#include "postmaster/walwriter.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "relay/wal/slot_decoder.h"

/* An asynchronous commit is safe after three times wal_writer_delay; it gets
 * no less than this. */
#define PATIENCE_MS 1000

/*
 * Flushes WAL that the WAL writer should have flushed long ago.  Call it in
 * each round, between records.
 */
void
async_commit_flush_check(void)
{
	static XLogRecPtr seen = InvalidXLogRecPtr; /* flushed, at the last look */
	static TimestampTz since = 0;	/* when it was there first; 0 when all was
									 * flushed */
	XLogRecPtr	flushed = GetFlushRecPtr(NULL);
	XLogRecPtr	end = slot_decoder_wal_end();
	TimestampTz now = monotonic_now();

	if (end <= flushed)
		since = 0;
	else if (since == 0 || flushed != seen)
		since = now;
	else if (TimestampDifferenceExceeds(since, now,
										Max(PATIENCE_MS, 3 * WalWriterDelay)))
	{
		XLogFlush(end);
		since = 0;
	}
	seen = flushed;
}
