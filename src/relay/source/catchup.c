/*-------------------------------------------------------------------------
 *
 * catchup.c
 *	  Publishes events out of the table, where no slot will deliver them.
 *
 * A snapshot decides what is new, never an id: a round publishes what its
 * snapshot shows and the watermark does not, and then the snapshot becomes the
 * watermark.  An event that was numbered early and committed late is as new as
 * any other.
 *
 * That is done again and again: the polling publisher.  It goes on for ever
 * without logical decoding, and else until a slot can be created (polling.c),
 * so that nothing that was published waits for old transactions to end.
 *
 * The last round before streaming is the one of the slot, with the snapshot
 * that shows exactly what committed before the slot's first position.  The slot
 * lasts only from then on: when the relay dies before, the next one begins
 * again, and a missing slot is never a silent fresh start.
 *
 * How a round is published is told in catchup_round.c; catchup_progress.h
 * says why rounds that are broken off do not pile up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/source/catchup.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "core/background_worker.h"
#include "core/database_id.h"
#include "registry/relay_entry.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/source/catchup_round.h"
#include "relay/state/catchup_progress.h"
#include "relay/state/relay.h"
#include "relay/table/catchup_table.h"
#include "relay/table/identity_table.h"
#include "relay/table/watermark_table.h"
#include "relay/wal/slot_creation.h"
#include "relay/wal/slot_decoder.h"

#define COMMITTING_WAIT_MS 10

/* A snapshot that shows every transaction that there can be. */
#define EVERYTHING "9223372036854775807:9223372036854775807:"

/* End of WAL when the last snapshot to read the table with was taken. */
static XLogRecPtr looked_at = InvalidXLogRecPtr;

/* A new round; everything is in TopMemoryContext. */
static CatchupProgress *
new_round(int32 database_id, char *snapshot, XLogRecPtr lsn)
{
	CatchupProgress *round = MemoryContextAllocZero(TopMemoryContext,
													sizeof(CatchupProgress));

	round->database_id = database_id;
	round->snapshot = snapshot;
	round->lsn = lsn;
	round->last_id = PG_INT64_MIN;
	return round;
}

static void
free_round(CatchupProgress *round)
{
	pfree(round->snapshot);
	pfree(round);
}

/*
 * A round is complete.  With forget_database, its database is done with.
 */
static void
settle_round(Relay *relay, const CatchupProgress *round, bool forget_database)
{
	catchup_settle(round, forget_database);
	if (relay->exact)
		relay->exact->set.catchup = NULL;
}

/*
 * Finishes the round of a database that an earlier relay began.  If only for that
 * deliveries were still exact, the next relay goes on.
 */
static void
finish_stored_round(Relay *relay, int32 database_id)
{
	CatchupProgress *round = catchup_load(database_id, TopMemoryContext);

	if (round == NULL)
		return;
	catchup_publish(relay, round);
	settle_round(relay, round, false);
	free_round(round);
	if (relay->exact && !relay->config->exactly_once)
		ending_restart();
}

/* Publishes what adopted databases had not, one after the other. */
static void
publish_adopted(Relay *relay)
{
	int32		database_id;

	while (identity_next_adopted(&database_id))
	{
		CatchupProgress *round;

		finish_stored_round(relay, database_id);
		round = new_round(database_id, MemoryContextStrdup(TopMemoryContext, EVERYTHING),
						  InvalidXLogRecPtr);
		catchup_publish(relay, round);
		settle_round(relay, round, true);
		free_round(round);
	}
}

/* What others left, once in the life of the process. */
static void
publish_legacy(Relay *relay)
{
	static bool done = false;

	if (done)
		return;
	publish_adopted(relay);
	finish_stored_round(relay, own_database_id());
	done = true;
}

/* A round of this database with a fresh snapshot. */
static CatchupProgress *
fresh_round(void)
{
	XLogRecPtr	lsn = slot_decoder_wal_end();
	char	   *snapshot;

	worker_begin_sql();
	snapshot = watermark_current_snapshot(TopMemoryContext);
	worker_commit_sql();
	return new_round(own_database_id(), snapshot, lsn);
}

/*
 * The slot is created: returns the round that goes with it, once all that its
 * snapshot shows can be read.
 */
static CatchupProgress *
slot_round(Relay *relay)
{
	while (TransactionIdIsValid(relay->status.pinned_by = slot_creation_committing()))
	{
		relay_show(relay);
		relay_wait(relay, COMMITTING_WAIT_MS);
	}
	return new_round(own_database_id(), MemoryContextStrdup(TopMemoryContext,
															slot_creation_snapshot()),
					 slot_decoder_confirmed());
}

/*
 * One look at the table: publishes everything that has committed and no
 * watermark shows.  Returns the number of events.  Needs a producer, no slot.
 */
uint64
catchup_poll(Relay *relay)
{
	CatchupProgress *round;
	uint64		number;
	uint64		sent;

	publish_legacy(relay);
	number = shmem_relay_begin_round();
	round = fresh_round();
	looked_at = slot_decoder_wal_end();
	sent = catchup_publish(relay, round);
	if (sent > 0)
		settle_round(relay, round, false);
	shmem_relay_polled(number);
	free_round(round);
	return sent;
}

/*
 * Goes on to create the slot, where that is possible without waiting for other
 * transactions.  Returns false when it takes longer.  Else publishes everything
 * in front of the slot that no watermark shows, and returns when Kafka has
 * acknowledged all of it and the slot is kept.  Needs a producer, and
 * catchup_poll() before each call, which shall not show more than the slot's
 * snapshot does.
 */
bool
catchup_reach_slot(Relay *relay)
{
	CatchupProgress *round;

	if (!slot_creation_seek(looked_at, &relay->status.pinned_by))
		return false;
	round = slot_round(relay);
	catchup_publish(relay, round);
	settle_round(relay, round, false);
	free_round(round);
	/* With the slot goes the right to forget what it does not hold. */
	XLogFlush(XactLastCommitEnd);
	slot_decoder_slot_keep();
	return true;
}
