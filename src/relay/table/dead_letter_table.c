/*-------------------------------------------------------------------------
 *
 * dead_letter_table.c
 *	  Reading and writing outbox.dead_letter and outbox.held_event.
 *
 * All of it needs SPI, and none of it ends the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/table/dead_letter_table.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/pmsignal.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "core/background_worker.h"
#include "core/slice.h"
#include "event/event.h"
#include "registry/relay_entry.h"
#include "relay/state/held_keys.h"
#include "relay/state/set_aside.h"

/* Between looks whether a table can be locked, as the process ends. */
#define LOOK_AGAIN_US 10000
#define MAX_LOOKS 300

/* Parameters of the statements below, in the order of SetAside's columns. */
enum
{
	ARG_ID, ARG_CHUNK, ARG_DATABASE_ID, ARG_XID, ARG_EVENT_ID, ARG_TOPIC, ARG_KEY,
	ARG_ERROR_CODE, ARG_ERROR, ARG_HOLDS, ARG_REPLAY, ARG_PARTITION, ARG_WAITED,
	NARGS
};

static Oid	arg_types[NARGS] = {
	[ARG_ID] = INT8OID,
	[ARG_CHUNK] = INT2OID,
	[ARG_DATABASE_ID] = INT4OID,
	[ARG_XID] = XID8OID,
	[ARG_EVENT_ID] = TEXTOID,
	[ARG_TOPIC] = TEXTOID,
	[ARG_KEY] = TEXTOID,
	[ARG_ERROR_CODE] = TEXTOID,
	[ARG_ERROR] = TEXTOID,
	[ARG_HOLDS] = BOOLOID,
	[ARG_REPLAY] = BOOLOID,
	[ARG_PARTITION] = INT4OID,
	[ARG_WAITED] = BOOLOID
};

/* One that waited, and was discarded meanwhile, shall not come back. */
#define STORE_FAILED \
	"INSERT INTO outbox.dead_letter AS d" \
	" (id, chunk, database_id, xid, event_id, topic, key, error_code, error, holds, replay)" \
	" SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11" \
	" WHERE NOT $13 OR EXISTS (SELECT FROM outbox.held_event h" \
	"                          WHERE h.id OPERATOR(pg_catalog.=) $1)" \
	" ON CONFLICT (id) DO UPDATE SET state = 'failed'," \
	" attempts = d.attempts OPERATOR(pg_catalog.+) 1," \
	" error_code = excluded.error_code, error = excluded.error," \
	" failed_at = pg_catalog.clock_timestamp(), holds = d.holds OR excluded.holds"

/* One that was discarded meanwhile shall not come back. */
#define STORE_FAILED_AGAIN \
	"UPDATE outbox.dead_letter SET state = 'failed'," \
	" attempts = attempts OPERATOR(pg_catalog.+) 1," \
	" error_code = $8, error = $9, failed_at = pg_catalog.clock_timestamp()" \
	" WHERE id OPERATOR(pg_catalog.=) $1"

/* It waits no longer. */
#define FORGET_HELD \
	"DELETE FROM outbox.held_event WHERE id OPERATOR(pg_catalog.=) $1"

#define STORE_HELD \
	"INSERT INTO outbox.held_event" \
	" (id, chunk, database_id, xid, event_id, topic, key, replay, partition)" \
	" SELECT $1, $2, $3, $4, $5, $6, $7, $11, $12" \
	" WHERE $11 OR NOT EXISTS (SELECT FROM outbox.dead_letter d" \
	"                          WHERE d.id OPERATOR(pg_catalog.=) $1)" \
	" ON CONFLICT (id) DO NOTHING"

/* One that was discarded meanwhile shall not come back. */
#define HOLD_AGAIN \
	"UPDATE outbox.held_event SET position = DEFAULT" \
	" WHERE id OPERATOR(pg_catalog.=) $1"

/* It was about to be sent. */
#define PARK_AGAIN \
	"UPDATE outbox.held_event SET partition = $12" \
	" WHERE id OPERATOR(pg_catalog.=) $1" \
	" AND partition IS DISTINCT FROM $12"

/* The latest watermark of each database that there are dead letters of. */
#define WATERMARKS \
	"WITH w AS (SELECT h.database_id, (SELECT w.snapshot FROM outbox.watermark w" \
	"                           WHERE w.database_id OPERATOR(pg_catalog.=) h.database_id" \
	"                           ORDER BY w.id DESC LIMIT 1) AS snapshot" \
	" FROM (SELECT database_id FROM outbox.dead_letter" \
	"       UNION SELECT database_id FROM outbox.held_event" \
	"       UNION SELECT database_id FROM outbox.discarded_event) h)"

/* Does it not show d, an event, so that it may come again? */
#define JOIN_WATERMARK " JOIN w ON w.database_id OPERATOR(pg_catalog.=) d.database_id"
#define NOT_SHOWN \
	" (w.snapshot IS NULL OR NOT pg_catalog.pg_visible_in_snapshot(d.xid, w.snapshot))"

#define STORED_EVENTS WATERMARKS \
	" SELECT d.id, d.holds, false, false FROM outbox.dead_letter d" JOIN_WATERMARK \
	" WHERE NOT d.replay AND" NOT_SHOWN \
	" UNION ALL SELECT d.id, false, true, d.partition IS NOT NULL" \
	" FROM outbox.held_event d" JOIN_WATERMARK " WHERE NOT d.replay AND" NOT_SHOWN \
	" UNION ALL SELECT d.id, false, false, false FROM outbox.discarded_event d" \
	JOIN_WATERMARK " WHERE" NOT_SHOWN

/* Was it set aside since deliveries are exact? */
#define IS_EXACT(time) \
	" AND " time " OPERATOR(pg_catalog.>) (SELECT x.since FROM outbox.exactly_once x" \
	"     WHERE x.database_id OPERATOR(pg_catalog.=) outbox.database_id())"

/*
 * $1: deliveries are exact.  Leaves out events that will come again, which is
 * not sure of those that were set aside before that.
 */
#define HELD_KEYS WATERMARKS \
	" SELECT d.topic, d.key, true FROM outbox.dead_letter d" JOIN_WATERMARK \
	" WHERE d.holds AND ($1 AND" NOT_SHOWN IS_EXACT("d.failed_at") ") IS NOT TRUE" \
	" UNION ALL" \
	" SELECT DISTINCT d.topic, d.key, false FROM outbox.held_event d" JOIN_WATERMARK \
	" WHERE d.partition IS NULL" \
	" AND ($1 AND" NOT_SHOWN IS_EXACT("d.held_at") ") IS NOT TRUE"

/*
 * Returns the stored events that may come again, by id; NULL when there are
 * none.  The table outlives the transaction.
 */
HTAB *
dead_letter_table_load_stored(void)
{
	HTAB	   *stored = NULL;
	HASHCTL		ctl = {.keysize = sizeof(int64),
		.entrysize = sizeof(StoredEvent),
	.hcxt = TopMemoryContext};
	bool		isnull;

	if (SPI_execute(STORED_EVENTS, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read dead letters");
	if (SPI_processed > 0)
		stored = hash_create("outbox stored events", SPI_processed, &ctl,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int64		id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
		StoredEvent *event = hash_search(stored, &id, HASH_ENTER, NULL);

		event->holds = DatumGetBool(SPI_getbinval(row, desc, 2, &isnull));
		event->waits = DatumGetBool(SPI_getbinval(row, desc, 3, &isnull));
		event->parked = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
	}
	return stored;
}

/*
 * Reads which keys are held.  When deliveries are exact, those events are sure
 * to come again that the watermark does not show, and hold a key from then on.
 */
void
dead_letter_table_load_keys(bool exact)
{
	Oid			types[1] = {BOOLOID};
	Datum		args[1] = {BoolGetDatum(exact)};
	bool		isnull;

	if (SPI_execute_with_args(HELD_KEYS, 1, types, args, NULL, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read held events");
	held_keys_clear();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Slice		key;

		key.data = SPI_getvalue(row, desc, 2);
		key.len = strlen(key.data);
		held_keys_add(SPI_getvalue(row, desc, 1), key,
					  DatumGetBool(SPI_getbinval(row, desc, 3, &isnull)), 0);
	}
}

typedef enum Statement
{
	STORES_FAILED, STORES_FAILED_AGAIN, STORES_HELD, HOLDS_AGAIN, PARKS_AGAIN,
	NSTATEMENTS
} Statement;

static const char *const statements[NSTATEMENTS] = {
	[STORES_FAILED] = STORE_FAILED,
	[STORES_FAILED_AGAIN] = STORE_FAILED_AGAIN,
	[STORES_HELD] = STORE_HELD,
	[HOLDS_AGAIN] = HOLD_AGAIN,
	[PARKS_AGAIN] = PARK_AGAIN
};

/* What is to be done with an event that was set aside. */
static Statement
choose_statement(const SetAside *item)
{
	if (item->again)
		return HOLDS_AGAIN;
	if (item->waits)
		return item->resend == RESEND_NONE ? STORES_HELD : PARKS_AGAIN;
	return item->resend == RESEND_FAILED ? STORES_FAILED_AGAIN : STORES_FAILED;
}

/*
 * Writes one event that was set aside.  What it needs in memory is left to the
 * current context.
 */
void
dead_letter_table_write_one(const SetAside *item)
{
	static SPIPlanPtr plans[NSTATEMENTS];
	Statement	which = choose_statement(item);
	char		id[UUID_TEXT_LEN + 1];
	Datum		args[NARGS] = {0};
	char		nulls[NARGS + 1] = "             ";
	bool		waited = item->resend == RESEND_HELD ||
	item->resend == RESEND_PARKED;

	/* A dead letter that is to be sent again stays one, and marked. */
	if (item->waits && item->resend == RESEND_FAILED)
		return;
	if (plans[which] == NULL)
	{
		plans[which] = SPI_prepare(statements[which], NARGS,
								   arg_types);
		if (plans[which] == NULL || SPI_keepplan(plans[which]) != 0)
			elog(ERROR, "could not prepare: %s", statements[which]);
	}
	uuid_to_text(&item->event_id, id);
	args[ARG_ID] = Int64GetDatum(item->id);
	args[ARG_CHUNK] = Int16GetDatum(item->chunk);
	args[ARG_DATABASE_ID] = Int32GetDatum(item->database_id);
	args[ARG_XID] = FullTransactionIdGetDatum(FullTransactionIdFromU64(item->xid));
	args[ARG_EVENT_ID] = CStringGetTextDatum(id);
	args[ARG_TOPIC] = CStringGetTextDatum(item->topic);
	if (item->key)
		args[ARG_KEY] = CStringGetTextDatum(item->key);
	else
		nulls[ARG_KEY] = 'n';
	args[ARG_ERROR_CODE] = CStringGetTextDatum(item->error_name ? item->error_name : "");
	args[ARG_ERROR] = CStringGetTextDatum(item->error ? item->error : "");
	args[ARG_HOLDS] = BoolGetDatum(item->holds);
	args[ARG_REPLAY] = BoolGetDatum(item->replay);
	if (item->parked)
		args[ARG_PARTITION] = Int32GetDatum(item->partition);
	else
		nulls[ARG_PARTITION] = 'n';
	args[ARG_WAITED] = BoolGetDatum(waited);
	if (SPI_execute_plan(plans[which], args, nulls, false, 0) < 0)
		elog(ERROR, "could not store a dead letter");
	if (!item->waits && waited &&
		SPI_execute_with_args(FORGET_HELD, 1, arg_types, args, NULL, false, 0) < 0)
		elog(ERROR, "could not store a dead letter");
}

/*
 * Locks the tables, without waiting, so that no row of them is locked by
 * anybody else.
 */
static LockOutcome
try_lock_tables(void)
{
	static const char *const tables[] = {"dead_letter", "held_event", "parked_topic"};
	LockOutcome outcome = LOCK_TAKEN;

	for (int i = 0; i < lengthof(tables) && outcome == LOCK_TAKEN; i++)
		outcome = worker_try_lock("outbox", tables[i], ExclusiveLock);
	return outcome;
}

/*
 * Begins to write as the process ends.  Returns false when the tables have gone
 * or somebody has locked them, or rows of theirs: who that is may wait for this
 * process, or have no end.
 */
bool
dead_letter_table_begin_at_exit(void)
{
	LockOutcome outcome = LOCK_BUSY;

	for (int i = 0; outcome == LOCK_BUSY && i < MAX_LOOKS && PostmasterIsAlive() &&
		 !shmem_relay_must_not_wait(); i++)
	{
		worker_begin_sql_at_exit();
		outcome = try_lock_tables();
		if (outcome == LOCK_TAKEN)
			return true;
		worker_commit_sql();
		pg_usleep(LOOK_AGAIN_US);
	}
	return false;
}
