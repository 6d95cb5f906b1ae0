/*-------------------------------------------------------------------------
 *
 * relay_takeover.c
 *	  From where a relay goes on when deliveries are exact.
 *
 * The progress topic says what was committed to Kafka.  A relay gets to be the
 * only one of its name, which makes the coordinator end whatever a former one
 * left open, and then reads the last record.  If that is ahead of the
 * watermark, it becomes the watermark, and everything goes on from there.  If
 * it tells of a catch-up that was under way, that is stored as well, to be
 * finished.  The first Kafka transaction carries that same record under the
 * relay's own instance, so that others see who has taken over.
 *
 * LSNs and transaction ids repeat when a standby is promoted that had not
 * received all.  A record that lies beyond the point where our timeline
 * forked would make us skip new transactions, so then the watermark counts,
 * which is part of our timeline.
 *
 * A relay whose name was taken by another one is fenced: it stops until the
 * Kafka settings are changed or the server is restarted.  And a relay that
 * finds a record of a later timeline does not even try: it belongs to a
 * primary that was replaced.  Where Kafka did not end the transaction of the
 * former relay and so did not fence it, it finds the new one's records between
 * its own.  One whose server was restored to a point in time does not try
 * either, until somebody says that it shall: the original may live on.
 *
 * Between taking the name and the record that says so a relay is not to be
 * seen.  Who loses the name meanwhile waits for the record, and who loses it
 * before its own record is there tries again, unless the other has a later
 * timeline.  So of two that meet one stays, and it is the promoted one.
 *
 * The table outbox.exactly_once remembers that deliveries were exact.  As long
 * as it does, a relay that need not be exact begins in the same way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/main/relay_takeover.h"

#include <limits.h>

#include "access/timeline.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "core/replication_slot.h"
#include "event/topic_name.h"
#include "kafka/producer/producer_transaction.h"
#include "registry/relay_entry.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_stall.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/fencing.h"
#include "relay/delivery/last_record.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/transactional_id.h"
#include "relay/process/ending.h"
#include "relay/progress/timeline_history.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"
#include "relay/state/watermark.h"
#include "relay/table/catchup_table.h"
#include "relay/table/watermark_table.h"
#include "relay/wal/slot_decoder.h"

#define NOTHING "1:1:"			/* a snapshot that shows nothing */

static const char restored_message[] =
"this server was restored to a point in time, and the original may still publish; to publish from here and stop the original, ALTER SERVER kafka OPTIONS (SET delivery 'exactly_once')";

/* Is the record one of this database's past? */
static bool
is_trusted(const PublishedSet *set)
{
	TimeLineID	ours = GetWALInsertionTimeLine();
	XLogRecPtr	end = slot_decoder_wal_end();
	XLogRecPtr	needed = set->lsn;
	List	   *history;

	if (set->timeline != ours)
	{
		history = readTimeLineHistory(ours);
		end = tliInHistory(set->timeline, history) ?
			tliSwitchPoint(set->timeline, history, NULL) : InvalidXLogRecPtr;
	}
	if (set->catchup)
		needed = Max(needed, set->catchup->safe_lsn);
	if (needed <= end)
		return true;
	ereport(WARNING,
			(errmsg("outbox relay goes on from its watermark: what Kafka has is ahead of this database"),
			 errdetail("Kafka has what was committed up to %X/%X on timeline %u; of that timeline this database has the part up to %X/%X.",
					   LSN_FORMAT_ARGS(needed), set->timeline,
					   LSN_FORMAT_ARGS(end)),
			 errhint("A failover has lost commits whose events are on Kafka. Events of about the last second before it may come twice.")));
	return false;
}

/* Stores how far a replay had come, durably: our own records do not tell. */
static void
adopt_replay(const PublishedSet *set)
{
	Oid			types[3] = {INT8OID, INT8OID, INT8OID};
	Datum		args[3] = {Int64GetDatum(set->replay_job),
		Int64GetDatum(set->replay_id),
	Int64GetDatum(set->replay_sent)};

	if (set->replay_job == 0)
		return;
	worker_begin_sql();
	worker_run_sql("UPDATE outbox.replay_job SET last_id = $2, sent = $3"
				   " WHERE id OPERATOR(pg_catalog.=) $1"
				   " AND last_id OPERATOR(pg_catalog.<) $2",
				   3, types, args, SPI_OK_UPDATE);
	worker_commit_sql();
	XLogFlush(XactLastCommitEnd);
}

/* Deletes rows of a table, durably, by their positions. */
static void
forget_resent(const ResentEvents *resent, const char *forget)
{
	Oid			types[1] = {INT8ARRAYOID};
	Datum		args[1];
	Datum	   *positions;

	if (resent->size == 0)
		return;
	worker_begin_sql();
	positions = palloc(resent->size * sizeof(Datum));
	for (int i = 0; i < resent->size; i++)
		positions[i] = UInt64GetDatum(resent->positions[i]);
	args[0] = PointerGetDatum(construct_array(positions, resent->size, INT8OID,
											  sizeof(int64), FLOAT8PASSBYVAL,
											  TYPALIGN_DOUBLE));
	worker_run_sql(forget, 1, types, args, SPI_OK_DELETE);
	worker_commit_sql();
	XLogFlush(XactLastCommitEnd);
}

/* What was set aside and is on Kafka now waits no more. */
static void
adopt_resent(const PublishedSet *set)
{
	forget_resent(&set->retried, "DELETE FROM outbox.dead_letter"
				  " WHERE position OPERATOR(pg_catalog.=) ANY ($1)");
	forget_resent(&set->released, "DELETE FROM outbox.held_event"
				  " WHERE position OPERATOR(pg_catalog.=) ANY ($1)");
}

/* Makes what the record says the watermark, if it is ahead. */
static void
adopt_set(const PublishedSet *set)
{
	Watermark  *watermark = watermark_load(CurrentMemoryContext);
	Watermark	reached;

	if (XLogRecPtrIsInvalid(set->lsn) ||
		(watermark && watermark->lsn >= set->lsn))
		return;
	reached.lsn = set->lsn;
	reached.snapshot = published_set_fold(set);
	watermark_store(&reached);
}

/*
 * Makes what the record says the watermark, if it is ahead, and stores how far
 * a catch-up and a replay had come, and what was sent again.
 */
static void
adopt_record(Relay *relay, const PublishedSet *set)
{
	adopt_replay(set);
	adopt_resent(set);
	adopt_set(set);
	/* That is true with and without this watermark. */
	if (set->catchup && catchup_adopt(set->catchup))
		relay->exact->set.catchup = set->catchup;
}

/* Our own set begins with the watermark; tells everybody who we are. */
static void
claim(Relay *relay)
{
	ExactlyOnce *exact = relay->exact;
	Watermark  *watermark = watermark_load(TopMemoryContext);

	exact->set.system_identifier = GetSystemIdentifier();
	exact->set.database = MyDatabaseId;
	exact->set.timeline = GetWALInsertionTimeLine();
	exact->set.lsn = watermark ? watermark->lsn : InvalidXLogRecPtr;
	exact->set.snapshot = watermark ? watermark->snapshot :
		MemoryContextStrdup(TopMemoryContext, NOTHING);
	exact->base_lsn = exact->stored_lsn = exact->set.lsn;
	if (transaction_begin(relay->producer) != TRANSACTION_DONE)
		exactly_once_start_over(relay);
	exactly_once_seal(relay);
	exact->claimed = true;
}

/* Does a query return a row? */
static bool
has_row(const char *query)
{
	bool		found;

	worker_begin_sql();
	if (SPI_execute(query, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", query);
	found = SPI_processed > 0;
	worker_commit_sql();
	return found;
}

/* Was it exact the last time? */
static bool
is_remembered(void)
{
	return has_row("SELECT FROM outbox.exactly_once"
				   " WHERE database_id OPERATOR(pg_catalog.=) outbox.database_id()");
}

/*
 * Has this server been restored to a point in time since it was exact the last
 * time?
 */
static bool
is_restored(void)
{
	TimeLineID	from = timeline_restored_from();

	return from != 0 &&
		has_row(psprintf("SELECT FROM outbox.exactly_once"
						 " WHERE database_id OPERATOR(pg_catalog.=) outbox.database_id()"
						 " AND timeline OPERATOR(pg_catalog.<=) %u::pg_catalog.int8",
						 from));
}

/* Is a catch-up to be finished that was exact so far? */
static bool
has_exact_catchup(void)
{
	return (capture_is_polling() || slot_decoder_slot_condition() != SLOT_USABLE) &&
		has_row("SELECT FROM outbox.catchup"
				" WHERE database_id OPERATOR(pg_catalog.=) outbox.database_id()"
				" AND from_id IS NOT NULL");
}

/* Remembers that it is exact, and where, or that it is not any more. */
static void
remember(bool exact)
{
	const char *store = psprintf("INSERT INTO outbox.exactly_once (timeline) VALUES (%u)"
								 " ON CONFLICT (database_id) DO UPDATE SET timeline = excluded.timeline",
								 GetWALInsertionTimeLine());

	worker_begin_sql();
	if (SPI_execute(exact ? store :
					"DELETE FROM outbox.exactly_once"
					" WHERE database_id OPERATOR(pg_catalog.=) outbox.database_id()",
					false, 0) < 0)
		elog(ERROR, "could not write outbox.exactly_once");
	worker_commit_sql();
	XLogFlush(XactLastCommitEnd);
}

/*
 * Finds out who we are, and what is on Kafka.  Strict: there has to be a
 * progress topic that we can rely on.
 */
static void
resume(Relay *relay, bool strict, bool take_over)
{
	PublishedSet set;

	if (last_record_read(relay, strict ? DEMAND_TOPIC : DEMAND_NOTHING,
						 &set) == LAST_RECORD_READ)
	{
		if (!take_over && fencing_is_successor(relay, &set))
			fencing_stay(relay, fencing_message);
		transactional_id_use(relay, set.generation);
	}
	transactional_id_take(relay);
	if (last_record_read(relay, strict ? DEMAND_ALL : DEMAND_NOTHING,
						 &set) != LAST_RECORD_READ)
		return;

	/*
	 * It may have shown itself since.  We have interrupted it; it tries
	 * again.
	 */
	if (!take_over && fencing_is_successor(relay, &set))
		fencing_stay(relay, fencing_message);
	/* Its owner would not be fenced. */
	if (set.generation > relay->exact->set.generation)
		ending_restart_later();
	if (is_trusted(&set))
		adopt_record(relay, &set);
}

static void
make_state(Relay *relay)
{
	pg_uuid_t	instance;
	Datum		text_of;

	relay->exact = MemoryContextAllocZero(TopMemoryContext, sizeof(ExactlyOnce));
	relay->exact->moved_at = monotonic_now();
	relay->exact->topic_max_bytes = INT_MAX;
	relay->exact->topic = MemoryContextStrdup(TopMemoryContext,
											  psprintf(PROGRESS_TOPIC_PREFIX UINT64_FORMAT ".%u",
													   GetSystemIdentifier(),
													   MyDatabaseId));
	instance = *DatumGetUUIDP(DirectFunctionCall1(gen_random_uuid, (Datum) 0));
	text_of = DirectFunctionCall1(uuid_out, UUIDPGetDatum(&instance));
	strlcpy(relay->exact->set.instance, DatumGetCString(text_of),
			sizeof(relay->exact->set.instance));
}

/*
 * A relay that need not be exact any more: finds out what is on Kafka, and
 * goes on with an ordinary producer.  But a catch-up that is under way is
 * exact to its end (see catchup.c), since only whole transactions of it count.
 */
static void
leave_exactly_once(Relay *relay)
{
	PublishedSet set;

	relay->config->transactional_id = transactional_id_name(relay->config, 0);
	sender_close(relay);
	sender_open_patiently(relay);
	make_state(relay);
	resume(relay, false, true);
	if (has_exact_catchup())
	{
		(void) last_record_read(relay, DEMAND_TOPIC, &set);
		claim(relay);
		return;
	}
	sender_close(relay);
	relay->exact = NULL;
	relay->config->transactional_id = NULL;
	sender_open_patiently(relay);
	remember(false);
}

/*
 * Called once, when there is a producer: makes the watermark say what is on
 * Kafka, and makes the relay exact when its settings say so.
 */
void
takeover_start(Relay *relay)
{
	bool		take_over = relay->fenced != 0 &&
	relay->fenced != shmem_relay_configuration() + 1;

	if (!relay->config->exactly_once)
	{
		relay->fenced = 0;
		if (is_remembered())
			leave_exactly_once(relay);
		return;
	}
	make_state(relay);
	if (!take_over && is_restored())
		fencing_stay(relay, restored_message);
	if (relay->fenced != 0 && !take_over)
		fencing_stay(relay, fencing_message);
	relay->fenced = 0;
	remember(true);
	resume(relay, true, take_over);
	claim(relay);
}
