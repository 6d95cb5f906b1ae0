/*-------------------------------------------------------------------------
 *
 * event_row_guard.c
 *	  What has to stay in outbox.event as it is.
 *
 * Until an event is on Kafka its row is needed.  The relay takes events out of
 * the WAL as long as it has a slot, and then a row that was deleted or changed
 * does not matter; but whether it will have one nobody knows in advance.  And
 * an event that is not in the table when the relay reads it counts as
 * published, since the transaction does.  So the rows of unpublished events
 * cannot be deleted or changed; nor those of dead letters deleted, nor of
 * events that wait behind one, which are sent out of the table later.
 *
 * Rows of another database are that one's affair, unless this database is a copy
 * of it that has still to publish them, or to decide.
 *
 * What never changes is where a row belongs: id, xid, chunk and database_id.  A row
 * that moves to another chunk is inserted there, and would be an event again.
 *
 * DELETE of many rows has to be cheap.  What is published is read when a
 * statement comes to the first row, and the trigger fires before the row is
 * deleted: PostgreSQL remembers nothing then, as it does for triggers that
 * fire afterwards or look at all rows at once, and locks the row instead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "core/extension_relations.h"
#include "event/event.h"

PG_FUNCTION_INFO_V1(outbox_keep_rows);

/* The databases whose events this database publishes, and their watermarks. */
#define HOMES \
	"SELECT h.database_id, (SELECT w.snapshot FROM outbox.watermark w" \
	" WHERE w.database_id OPERATOR(pg_catalog.=) h.database_id ORDER BY w.id DESC LIMIT 1)" \
	" FROM (SELECT outbox.database_id() AS database_id" \
	"       UNION SELECT i.database_id FROM outbox.identity i) h"

/* Events that are set aside: whether each waits behind another one. */
#define SET_ASIDE \
	"SELECT d.id, d.database_id, false FROM outbox.dead_letter d WHERE NOT d.replay" \
	" UNION ALL SELECT h.id, h.database_id, true FROM outbox.held_event h"

/*
 * An event of a chunk that is not published.  To be found by the index on xid:
 * the sum hides database_id from the other one.
 */
#define UNPUBLISHED_IN \
	"SELECT e.event_id FROM %s e" \
	" WHERE (e.database_id OPERATOR(pg_catalog.+) 0) OPERATOR(pg_catalog.=) $1" \
	" AND e.xid OPERATOR(pg_catalog.>=) $2" \
	" AND NOT pg_catalog.pg_visible_in_snapshot(e.xid, $3) LIMIT 1"

/* One that is set aside. */
#define SET_ASIDE_IN \
	"SELECT a.event_id" \
	" FROM (SELECT d.event_id, d.chunk FROM outbox.dead_letter d WHERE NOT d.replay" \
	"       UNION ALL SELECT h.event_id, h.chunk FROM outbox.held_event h) a" \
	" WHERE a.chunk OPERATOR(pg_catalog.=) (SELECT e.chunk FROM %s e LIMIT 1) LIMIT 1"

typedef struct KeptDatabase
{
	int32		database_id;
	Datum		published;		/* a pg_snapshot, 0 for none */
} KeptDatabase;

typedef struct KeptEvent
{
	int64		id;
	int32		database_id;
	bool		waits;
} KeptEvent;

/* What a statement goes by. */
typedef struct Kept
{
	MemoryContext context;
	KeptDatabase *databases;
	uint64		ndatabases;
	KeptEvent  *set_aside;		/* in ascending order */
	uint64		nset_aside;
} Kept;

static int
compare_events(const void *a, const void *b)
{
	const KeptEvent *x = a;
	const KeptEvent *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->database_id < y->database_id ? -1 : x->database_id > y->database_id;
}

static void
query(const char *sql, int nargs, Oid *types, Datum *args)
{
	if (SPI_execute_with_args(sql, nargs, types, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", sql);
}

/* A column of the last query's result. */
static Datum
column(uint64 row, int number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, number,
						 isnull);
}

static void
read_databases(Kept *kept)
{
	query(HOMES, 0, NULL, NULL);
	kept->ndatabases = SPI_processed;
	kept->databases = MemoryContextAllocZero(kept->context,
											 SPI_processed * sizeof(KeptDatabase));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(kept->context);
		bool		isnull;
		Datum		snapshot;

		kept->databases[i].database_id = DatumGetInt32(column(i, 1, &isnull));
		snapshot = column(i, 2, &isnull);
		if (!isnull)
			kept->databases[i].published = PointerGetDatum(PG_DETOAST_DATUM_COPY(snapshot));
		MemoryContextSwitchTo(old);
	}
}

static void
read_set_aside(Kept *kept)
{
	query(SET_ASIDE, 0, NULL, NULL);
	kept->nset_aside = SPI_processed;
	kept->set_aside = MemoryContextAllocHuge(kept->context,
											 (SPI_processed + 1) * sizeof(KeptEvent));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		kept->set_aside[i].id = DatumGetInt64(column(i, 1, &isnull));
		kept->set_aside[i].database_id = DatumGetInt32(column(i, 2, &isnull));
		kept->set_aside[i].waits = DatumGetBool(column(i, 3, &isnull));
	}
	qsort(kept->set_aside, kept->nset_aside, sizeof(KeptEvent), compare_events);
}

/* The database of that number, NULL when its rows need not be kept. */
static const KeptDatabase *
find_database(const Kept *kept, int32 database_id)
{
	for (uint64 i = 0; i < kept->ndatabases; i++)
		if (kept->databases[i].database_id == database_id)
			return &kept->databases[i];
	return NULL;
}

static bool
is_published(const KeptDatabase *database_id, Datum xid)
{
	return database_id->published != 0 &&
		DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot, xid,
										 database_id->published));
}

/*
 * Calls a function with SPI and the rights of the table's owner, as foreign
 * keys do: who may delete events need not be able to read about the relay.
 */
static void
as_owner(Relation relation, void (*function) (void *arg), void *arg)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(relation->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	SPI_connect();
	function(arg);
	SPI_finish();
	SetUserIdAndSecContext(user, context);
}

static void
read_all(void *arg)
{
	read_databases(arg);
	read_set_aside(arg);
}

/* What the statement goes by that a trigger is called for. */
static const Kept *
get_kept(FmgrInfo *function, Relation relation)
{
	Kept	   *kept = function->fn_extra;

	if (kept == NULL)
	{
		if (!event_tupdesc_matches(RelationGetDescr(relation)))
			extension_relation_is_wrong("outbox", RelationGetRelationName(relation));
		kept = MemoryContextAllocZero(function->fn_mcxt, sizeof(Kept));
		kept->context = function->fn_mcxt;
		as_owner(relation, read_all, kept);
		function->fn_extra = kept;
	}
	return kept;
}

static Datum
row_value(TupleTableSlot *slot, EventColumn column)
{
	bool		isnull;

	return slot_getattr(slot, column + 1, &isnull);
}

/* The id of a row's event as text. */
static char *
event_name(TupleTableSlot *slot)
{
	char	   *text = palloc(UUID_TEXT_LEN + 1);

	uuid_to_text(DatumGetUUIDP(row_value(slot, EVENT_EVENT_ID)), text);
	return text;
}

/* Raises an error when the row of a dead letter is to be deleted. */
static void
check_set_aside(const Kept *kept, TupleTableSlot *slot)
{
	KeptEvent	key = {.id = DatumGetInt64(row_value(slot, EVENT_ID)),
	.database_id = DatumGetInt32(row_value(slot, EVENT_DATABASE_ID))};
	KeptEvent  *found = NULL;

	if (kept->nset_aside > 0)
		found = bsearch(&key, kept->set_aside, kept->nset_aside,
						sizeof(KeptEvent), compare_events);
	if (found)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot delete an event that is not on Kafka"),
				 found->waits ?
				 errdetail("Event %s waits behind a dead letter, and its row is needed to send it.",
						   event_name(slot)) :
				 errdetail("Event %s is a dead letter, and its row is needed to send it again.",
						   event_name(slot)),
				 errhint("Send the dead letter with outbox.retry(), or give it up with outbox.discard().")));
}

/* Raises an error when a column is to be changed that tells where a row is. */
static void
check_place(TupleTableSlot *old, TupleTableSlot *new)
{
	static const EventColumn fixed[] = {EVENT_ID, EVENT_XID, EVENT_CHUNK,
	EVENT_DATABASE_ID};

	for (int i = 0; i < lengthof(fixed); i++)
	{
		Form_pg_attribute att = TupleDescAttr(old->tts_tupleDescriptor, fixed[i]);

		if (!datumIsEqual(row_value(old, fixed[i]), row_value(new, fixed[i]),
						  att->attbyval, att->attlen))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot change id, xid, chunk or database_id of an event"),
					 errdetail("They tell which events are on Kafka."),
					 errhint("Publish a new event instead.")));
	}
}

/* A row is to be deleted, or changed when there is a new one. */
static void
check_row(const Kept *kept, TupleTableSlot *old, TupleTableSlot *new)
{
	const KeptDatabase *database_id = find_database(kept,
													DatumGetInt32(row_value(old, EVENT_DATABASE_ID)));

	if (new)
		check_place(old, new);
	if (database_id == NULL)
		return;
	if (!is_published(database_id, row_value(old, EVENT_XID)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 new ? errmsg("cannot change an event that is not on Kafka yet") :
				 errmsg("cannot delete an event that is not on Kafka yet"),
				 errdetail("Event %s is pending, and the relay may have to read its row.",
						   event_name(old)),
				 errhint("Wait until outbox.events shows it as published. The transaction that publishes an event cannot delete or change it.")));
	if (new == NULL)
		check_set_aside(kept, old);
}

/* Raises an error when the last query found an event in a chunk. */
static void
refuse_truncate(Relation chunk, const char *why)
{
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot truncate \"%s\": it has events that are not on Kafka",
						RelationGetRelationName(chunk)),
				 errdetail("Event %s %s.",
						   SPI_getvalue(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1), why),
				 errhint("Wait until outbox.events shows all of them as published; dead letters are sent with outbox.retry() or given up with outbox.discard().")));
}

/* Raises an error when a chunk has an event of a database that is not published. */
static void
check_chunk_database(Relation chunk, const char *sql, const KeptDatabase *database_id)
{
	Oid			types[3] = {INT4OID, XID8OID, PG_SNAPSHOTOID};
	Datum		args[3];

	args[0] = Int32GetDatum(database_id->database_id);
	args[2] = database_id->published ? database_id->published :
		DirectFunctionCall1(pg_snapshot_in, CStringGetDatum("1:1:"));
	args[1] = DirectFunctionCall1(pg_snapshot_xmin, args[2]);
	query(sql, 3, types, args);
	refuse_truncate(chunk, "is pending");
}

/* A chunk is to be truncated. */
static void
check_chunk(void *arg)
{
	Relation	chunk = arg;
	char	   *name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(chunk)),
												  RelationGetRelationName(chunk));
	char	   *sql = psprintf(UNPUBLISHED_IN, name);
	Kept		kept = {.context = CurrentMemoryContext};

	read_databases(&kept);
	for (uint64 i = 0; i < kept.ndatabases; i++)
		check_chunk_database(chunk, sql, &kept.databases[i]);
	query(psprintf(SET_ASIDE_IN, name), 0, NULL, NULL);
	refuse_truncate(chunk, "is a dead letter, or waits behind one");
}

/*
 * The same with a snapshot that shows all that is in the chunk, whatever the
 * transaction sees.
 */
static void
check_truncate(Relation chunk)
{
	static const char *const unwanted[] = {"enable_seqscan", "enable_indexscan",
	"enable_indexonlyscan", "jit"};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(unwanted); i++)
		(void) set_config_option(unwanted[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	PushActiveSnapshot(GetLatestSnapshot());
	as_owner(chunk, check_chunk, chunk);
	PopActiveSnapshot();
	AtEOXact_GUC(true, level);
}

/*
 * SQL function outbox.keep_rows() RETURNS trigger: refuses to delete, change
 * or truncate what has to stay.  Fires before each row, or before TRUNCATE of
 * a chunk.
 */
Datum
outbox_keep_rows(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "outbox.keep_rows() was not called as a trigger");
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		check_truncate(trigger->tg_relation);
		PG_RETURN_POINTER(NULL);
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		check_row(get_kept(fcinfo->flinfo, trigger->tg_relation),
				  trigger->tg_trigslot, trigger->tg_newslot);
		PG_RETURN_POINTER(trigger->tg_newtuple);
	}
	check_row(get_kept(fcinfo->flinfo, trigger->tg_relation),
			  trigger->tg_trigslot, NULL);
	PG_RETURN_POINTER(trigger->tg_trigtuple);
}
