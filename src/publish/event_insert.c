/*-------------------------------------------------------------------------
 *
 * event_insert.c
 *	  outbox.event as publish() sees it: the chunk that takes new rows, the
 *	  numbers of rows, and the way in.
 *
 * Rows go into the current chunk without parsing, planning, partition routing
 * or SPI, and mostly without the executor (direct_insert.c).  What is left out
 * is left out because it could not fail: the caller has checked the event, and
 * the partition constraint holds by choice of the chunk.  When the table's
 * owner added something of their own, a trigger, a constraint or a column, the
 * executor inserts the row.
 *
 * An id that publish() makes is like no other, so only ids that publishers give
 * need an index that says so: that of the rows whose id_given is true.  In the
 * others the commonest media type is left out, too.
 *
 * Privileges on table and sequences are not checked: whoever may execute
 * publish() may publish, and cannot do anything else by it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/event_insert.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodes.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "core/compat.h"
#include "core/database_id.h"
#include "event/event.h"
#include "publish/chunk_checks.h"
#include "publish/direct_insert.h"
#include "publish/event_chunk.h"

/*
 * Prepares CHECK constraints: ours with the rights of the table's owner, since
 * who may execute publish() need not be allowed to execute check_event().  What
 * others call is the publisher's affair, as in an INSERT.
 */
static void
prepare_checks(ResultRelInfo *target, EState *estate)
{
	Relation	chunk = target->ri_RelationDesc;
	TupleConstr *constr = RelationGetDescr(chunk)->constr;
	int			nchecks = constr ? constr->num_check : 0;
	Oid			user;
	int			context;

	if (nchecks == 0)
		return;
	COMPAT_CHECKS(target) = palloc0(nchecks * sizeof(ExprState *));
	GetUserIdAndSecContext(&user, &context);
	for (int i = 0; i < nchecks; i++)
	{
		Expr	   *check;

		if (!compat_is_enforced(&constr->check[i]))
			continue;
		check = compat_check_node(&constr->check[i], chunk);
		if (chunk_is_our_check(check))
			SetUserIdAndSecContext(chunk->rd_rel->relowner,
								   context | SECURITY_LOCAL_USERID_CHANGE);
		COMPAT_CHECKS(target)[i] = ExecPrepareExpr(check, estate);
		SetUserIdAndSecContext(user, context);
	}
}

/*
 * Inserts the row in the slot, with triggers, constraints and all.  Closes the
 * indexes.
 */
static void
insert_slot(ResultRelInfo *target, EState *estate, TupleTableSlot *slot)
{
	/* Here the triggers' queue finds the relation. */
	estate->es_opened_result_relations =
		lappend(estate->es_opened_result_relations, target);
	prepare_checks(target, estate);
	AfterTriggerBeginQuery();
	ExecSimpleRelationInsert(target, estate, slot);
	AfterTriggerEndQuery(estate);
	ExecCloseResultRelations(estate);
}

/* Sets columns that the owner added, all but one of ours, to their defaults. */
static void
set_defaults(Relation chunk, int id_given, EState *estate, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(chunk);

	for (int i = EVENT_NFIXED; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Expr	   *expr;

		if (att->attisdropped || att->attgenerated || i == id_given)
			continue;
		expr = (Expr *) build_column_default(chunk, i + 1);
		if (expr == NULL)
			continue;
		slot->tts_values[i] = ExecEvalExpr(ExecInitExpr(expression_planner(expr), NULL),
										   GetPerTupleExprContext(estate),
										   &slot->tts_isnull[i]);
	}
}

/* Has the executor insert a row into the open chunk. */
static void
insert_by_executor(Relation chunk, const Datum *values, const bool *nulls)
{
	TupleDesc	desc = RelationGetDescr(chunk);
	int			id_given = event_id_given_column(desc);
	EState	   *estate = CreateExecutorState();
	MemoryContext old = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot;

	InitResultRelInfo(target, chunk, 0, NULL, 0);
	ExecOpenIndices(target, false);

	slot = table_slot_create(chunk, &estate->es_tupleTable);
	memset(slot->tts_isnull, true, desc->natts * sizeof(bool));
	memcpy(slot->tts_values, values, EVENT_NFIXED * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, EVENT_NFIXED * sizeof(bool));
	if (id_given >= 0)
	{
		slot->tts_values[id_given] = values[EVENT_ID_GIVEN];
		slot->tts_isnull[id_given] = nulls[EVENT_ID_GIVEN];
	}
	set_defaults(chunk, id_given, estate, slot);
	ExecStoreVirtualTuple(slot);
	insert_slot(target, estate, slot);

	ExecResetTupleTable(estate->es_tupleTable, false);
	MemoryContextSwitchTo(old);
	FreeExecutorState(estate);
}

/* Is it the media type that rows need not have? */
static bool
is_json(Datum type)
{
	struct varlena *text = (struct varlena *) DatumGetPointer(type);

	return VARSIZE_ANY_EXHDR(text) == JSON_TYPE_LEN &&
		memcmp(VARDATA_ANY(text), JSON_TYPE, JSON_TYPE_LEN) == 0;
}

/*
 * Sets the column id_given of a row, and leaves the media type out where that
 * can be.  A row that has none must not look as if it were left out.  Nor can
 * it be in a table of a release before.
 */
static void
set_id_given(Relation chunk, bool id_given, Datum *values, bool *nulls)
{
	values[EVENT_ID_GIVEN] = BoolGetDatum(true);
	nulls[EVENT_ID_GIVEN] = !id_given && !nulls[EVENT_CONTENT_TYPE];
	if (nulls[EVENT_ID_GIVEN] && is_json(values[EVENT_CONTENT_TYPE]) &&
		event_id_given_column(RelationGetDescr(chunk)) >= 0)
		nulls[EVENT_CONTENT_TYPE] = true;
}

/* Inserts a row into the open chunk of a number. */
static void
insert_row(Relation chunk, int16 number, Datum *values, bool *nulls)
{
	if (!direct_insert(chunk, number, values, nulls))
		insert_by_executor(chunk, values, nulls);
}

/*
 * Raises the error that is being handled: in the publisher's words when it is
 * that the chunk has an event of this id already, else as it is.
 */
static void
rethrow_duplicate(Relation chunk, const pg_uuid_t *event_id)
{
	ErrorData  *error = CopyErrorData();
	char		index[NAMEDATALEN];
	char		id[UUID_TEXT_LEN + 1];

	snprintf(index, sizeof(index), "%s_event_id_chunk_key",
			 RelationGetRelationName(chunk));
	if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		error->schema_name && strcmp(error->schema_name, STORE_SCHEMA) == 0 &&
		error->constraint_name && strcmp(error->constraint_name, index) == 0)
	{
		uuid_to_text(event_id, id);
		error->message = pstrdup("an event with this event_id was published before");
		error->detail = psprintf("The event_id is %s.", id);
		error->hint = pstrdup("Every event needs an event_id of its own; leave event_id out to get a new one.");
	}
	FlushErrorState();
	ReThrowError(error);
}

/*
 * Stores an event, whose columns are in the order of EventColumn and have
 * been checked.  Sets the columns id, chunk, database_id and id_given, which says that
 * event_id came from the publisher and may exist already.
 */
void
store_insert(Datum *values, bool *nulls, bool id_given)
{
	MemoryContext context = CurrentMemoryContext;
	int16		number = event_chunk_current_chunk();
	Relation	chunk = event_chunk_open_chunk(number, RowExclusiveLock);

	values[EVENT_CHUNK] = Int16GetDatum(number);
	values[EVENT_ID] = Int64GetDatum(event_chunk_next_id());
	values[EVENT_DATABASE_ID] = Int32GetDatum(own_database_id());
	nulls[EVENT_CHUNK] = nulls[EVENT_ID] = nulls[EVENT_DATABASE_ID] = false;
	set_id_given(chunk, id_given, values, nulls);

	if (id_given)
	{
		PG_TRY();
		{
			insert_row(chunk, number, values, nulls);
		}
		PG_CATCH();
		{
			MemoryContextSwitchTo(context);
			rethrow_duplicate(chunk, DatumGetUUIDP(values[EVENT_EVENT_ID]));
		}
		PG_END_TRY();
	}
	else
		insert_row(chunk, number, values, nulls);
	relation_close(chunk, NoLock);
}
