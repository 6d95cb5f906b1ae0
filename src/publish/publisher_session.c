/*-------------------------------------------------------------------------
 *
 * publisher_session.c
 *	  What a session that publishes has to do with its relay: it wakes the
 *	  relay when it commits, and can wait until its events are on Kafka.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/publisher_session.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "registry/databases.h"

PG_FUNCTION_INFO_V1(outbox_wait_published);

/* Has the current transaction published? */
static bool publishing = false;

/*
 * End of the last commit of this session that published, and the round of
 * polling that came before; later ones see it.
 */
static XLogRecPtr last_commit = InvalidXLogRecPtr;
static uint64 last_round = 0;

/* A transaction has committed and may have published. */
static void
has_committed(XLogRecPtr end)
{
	last_commit = end;
	last_round = shmem_last_round();
	shmem_wake_relay(MyDatabaseId);
}

static void
at_end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (publishing)
				has_committed(XactLastCommitEnd);
			publishing = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			publishing = false;
			break;
		default:
			break;
	}
}

/*
 * The current transaction publishes: when it commits, the relay shall wake.
 * Cheap to call for every event.
 */
void
session_publishes(void)
{
	static bool registered = false;

	if (publishing)
		return;
	if (!registered)
	{
		RegisterXactCallback(at_end_of_transaction, NULL);
		registered = true;
	}
	publishing = true;
}

/*
 * This session has committed a prepared transaction, which may have published.
 * The command's own transaction has still to end: the record of that commit is
 * the last that it has written.
 */
void
session_committed_prepared(void)
{
	has_committed(XactLastRecEnd);
}

/* A time limit in ms, at most what a wait can take: some 24 days. */
static long
interval_to_ms(const Interval *interval)
{
	double		ms = interval->time / 1000.0 +
	((double) interval->day + (double) interval->month * DAYS_PER_MONTH) *
	SECS_PER_DAY * 1000.0;

	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative"),
				 errhint("Use 0 to ask without waiting.")));
	return (long) Min(ms, PG_INT32_MAX);
}

/*
 * SQL function outbox.wait_published(timeout interval): waits until all that
 * this session committed is on Kafka.  Returns false at the time limit.
 */
Datum
outbox_wait_published(PG_FUNCTION_ARGS)
{
	long		timeout = interval_to_ms(PG_GETARG_INTERVAL_P(0));

	if (publishing)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events of the current transaction"),
				 errdetail("They are published after it commits, so the wait could not end."),
				 errhint("Call outbox.wait_published() after COMMIT.")));
	PG_RETURN_BOOL(XLogRecPtrIsInvalid(last_commit) ||
				   shmem_wait_published(MyDatabaseId, last_commit, last_round,
										timeout));
}
