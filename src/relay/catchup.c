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
 * Before a slot is created there is a round without one, so that no WAL is
 * held for what waited long; then another with the snapshot that shows exactly
 * what committed before the slot's first position.  The slot lasts only from
 * then on: when the relay dies before, the next one begins again, and a
 * missing slot is never a silent fresh start.
 *
 * Or it is done again and again, without any slot: the polling publisher.
 *
 * How a round is published is told in catchup_round.c; catchup_progress.h
 * says why rounds that are broken off do not pile up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/catchup.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/home.h"
#include "base/worker.h"
#include "relay/catchup_store.h"
#include "relay/connection.h"
#include "relay/decode.h"
#include "relay/ending.h"
#include "relay/exactly_once.h"
#include "relay/identity.h"
#include "relay/watermark.h"

/* A snapshot that shows every transaction that there can be. */
#define EVERYTHING "9223372036854775807:9223372036854775807:"

/* A new round; everything is in TopMemoryContext. */
static CatchupProgress *
new_round(int32 home, char *snapshot, XLogRecPtr lsn)
{
	CatchupProgress *round = MemoryContextAllocZero(TopMemoryContext,
													sizeof(CatchupProgress));

	round->home = home;
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
 * A round is complete.  With forget_home, its home is done with.
 */
static void
settle_round(Relay *relay, const CatchupProgress *round, bool forget_home)
{
	catchup_settle(round, forget_home);
	if (relay->exact)
		relay->exact->set.catchup = NULL;
}

/*
 * Finishes the round of a home that an earlier relay began.  If only for that
 * deliveries were still exact, the next relay goes on.
 */
static void
finish_stored_round(Relay *relay, int32 home)
{
	CatchupProgress *round = catchup_load(home, TopMemoryContext);

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
	int32		home;

	while (identity_next_adopted(&home))
	{
		CatchupProgress *round;

		finish_stored_round(relay, home);
		round = new_round(home, MemoryContextStrdup(TopMemoryContext, EVERYTHING),
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
	finish_stored_round(relay, home_id());
	done = true;
}

/* A round of this database with a fresh snapshot. */
static CatchupProgress *
fresh_round(void)
{
	XLogRecPtr	lsn = decode_wal_end();
	char	   *snapshot;

	worker_begin_sql();
	snapshot = watermark_current_snapshot(TopMemoryContext);
	worker_commit_sql();
	return new_round(home_id(), snapshot, lsn);
}

/* Creates the slot; returns the round that goes with it. */
static CatchupProgress *
slot_round(void)
{
	char	   *snapshot;

	PushActiveSnapshot(decode_slot_create());
	SPI_connect();
	snapshot = watermark_current_snapshot(TopMemoryContext);
	SPI_finish();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);
	decode_slot_unpin();
	return new_round(home_id(), snapshot, decode_confirmed());
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
	sent = catchup_publish(relay, round);
	if (sent > 0)
		settle_round(relay, round, false);
	shmem_relay_polled(number);
	free_round(round);
	return sent;
}

/*
 * Creates the slot and publishes everything before it that no watermark
 * shows.  Returns when Kafka has acknowledged all of it and the slot is kept.
 * Needs a producer.
 */
void
catchup_run(Relay *relay)
{
	CatchupProgress *round;

	relay->working_state = RELAY_CATCHING_UP;
	/* A slot holds WAL: none before it can be of use. */
	connection_wait(relay);
	relay_work(relay);
	catchup_poll(relay);

	round = slot_round();
	catchup_publish(relay, round);
	settle_round(relay, round, false);
	free_round(round);
	/* With the slot goes the right to forget what it does not hold. */
	XLogFlush(XactLastCommitEnd);
	decode_slot_keep();
}
