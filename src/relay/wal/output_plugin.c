/*-------------------------------------------------------------------------
 *
 * output_plugin.c
 *	  The logical decoding output plugin: from decoded changes to events.
 *
 * Each row inserted into outbox.event, in whichever chunk, is an event.
 * Everything else is ignored, and so are rows of another database: logical
 * replication or a dump brought them from another database, which publishes
 * them.  How a transaction came about, with a replication origin or without,
 * does not matter: one that applies what others did may publish, too.
 *
 * The snapshots that tell what is published show a transaction whether or not
 * its rows came by here.  So nothing that may be an event is ignored for any
 * other reason.
 *
 * The relay decodes in its own process and sets a sink, which gets the event
 * as a C value.  Any other user of the plugin gets one write for each event:
 * a readable line (option "format" = 'text', the default) or the frame that
 * event.h describes (option "format" = 'binary').  Both carry no begin and
 * commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/output_plugin.h"

#ifdef OUTBOX_CHECK_FOREIGN
#endif

#include "access/rmgr.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "commands/defrem.h"
#include "replication/output_plugin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "core/database_id.h"
#include "core/extension_relations.h"
#include "event/event.h"
#include "relay/state/commit.h"
#include "relay/state/xid_array.h"
#include "relay/wal/foreign_changes.h"

#define EVENT_SCHEMA "outbox"
#define EVENT_TABLE "event"

typedef struct PluginState
{
	MemoryContext event_context;	/* reset after each event */
	const EventSink *sink;		/* NULL unless a relay decodes */
	HTAB	   *relations;		/* RelationVerdict by oid */
	TimestampTz commit_time;	/* of the transaction that is being decoded */
} PluginState;

/* Is a table a chunk of outbox.event?  Remembered until it changes. */
typedef struct RelationVerdict
{
	Oid			relid;
	bool		is_event;
} RelationVerdict;

/* Only one decoding context is active in a process at a time. */
static HTAB *relation_verdicts = NULL;

static void
forget_verdict(Datum arg, Oid relid)
{
	if (relation_verdicts == NULL)
		return;
	if (OidIsValid(relid))
		hash_search(relation_verdicts, &relid, HASH_REMOVE, NULL);
	else
	{
		HASH_SEQ_STATUS scan;
		RelationVerdict *verdict;

		hash_seq_init(&scan, relation_verdicts);
		while ((verdict = hash_seq_search(&scan)) != NULL)
			hash_search(relation_verdicts, &verdict->relid, HASH_REMOVE, NULL);
	}
}

/* The verdicts at arg are gone. */
static void
plugin_reset(void *arg)
{
	if (relation_verdicts == arg)
		relation_verdicts = NULL;
}

/* Reads the options; text output is the default. */
static void
plugin_startup(LogicalDecodingContext *ctx, OutputPluginOptions *opt,
			   bool is_init)
{
	static bool callback_registered = false;
	PluginState *state = palloc0(sizeof(PluginState));
	MemoryContextCallback *reset = palloc0(sizeof(MemoryContextCallback));
	HASHCTL		ctl = {0};
	ListCell   *lc;

	opt->output_type = OUTPUT_PLUGIN_TEXTUAL_OUTPUT;
	foreach(lc, ctx->output_plugin_options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		char	   *value = option->arg ? defGetString(option) : "";

		if (strcmp(option->defname, "format") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown option \"%s\" of output plugin \"outbox\"",
							option->defname),
					 errhint("The only option is \"format\".")));
		if (strcmp(value, "binary") == 0)
			opt->output_type = OUTPUT_PLUGIN_BINARY_OUTPUT;
		else if (strcmp(value, "text") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value \"%s\" for option \"format\"", value),
					 errhint("Allowed are \"text\" and \"binary\".")));
	}

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(RelationVerdict);
	ctl.hcxt = ctx->context;
	state->relations = hash_create("outbox relations", 64, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	state->event_context = AllocSetContextCreate(ctx->context, "outbox event",
												 ALLOCSET_DEFAULT_SIZES);
	ctx->output_plugin_private = state;

	if (!callback_registered)
	{
		CacheRegisterRelcacheCallback(forget_verdict, (Datum) 0);
		callback_registered = true;
	}
	reset->func = plugin_reset;
	reset->arg = state->relations;
	MemoryContextRegisterResetCallback(ctx->context, reset);
	relation_verdicts = state->relations;
}

/*
 * Gives the relay's sink all events that ctx decodes from now on.  The sink
 * must outlive ctx.
 */
void
plugin_set_sink(LogicalDecodingContext *ctx, const EventSink *sink)
{
	((PluginState *) ctx->output_plugin_private)->sink = sink;
}

/*
 * Is the relation outbox.event or a chunk of it?  Raises an error when it is
 * and its rows cannot be read.
 */
static bool
look_at_relation(Relation relation)
{
	Oid			relid = RelationGetRelid(relation);

	if (relation->rd_rel->relispartition)
		relid = get_partition_parent(relid, true);
	else if (relation->rd_rel->relkind != RELKIND_RELATION)
		return false;
	if (!OidIsValid(relid) ||
		get_rel_namespace(relid) != get_namespace_oid(EVENT_SCHEMA, true) ||
		strcmp(get_rel_name(relid), EVENT_TABLE) != 0)
		return false;
	if (!event_tupdesc_matches(RelationGetDescr(relation)))
		extension_relation_is_wrong(get_namespace_name(RelationGetNamespace(relation)),
									RelationGetRelationName(relation));
	return true;
}

static bool
is_event_relation(PluginState *state, Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	RelationVerdict *verdict;
	bool		is_event;

	verdict = hash_search(state->relations, &relid, HASH_FIND, NULL);
	if (verdict != NULL)
		return verdict->is_event;

	/* Looking may process invalidations, so enter the verdict afterwards. */
	is_event = look_at_relation(relation);
	verdict = hash_search(state->relations, &relid, HASH_ENTER, NULL);
	verdict->is_event = is_event;
	return is_event;
}

/*
 * The id of the transaction that inserted a row, given the one that the row
 * says.  That is another one when somebody wrote the column.
 */
static uint64
inserted_by(const ReorderBufferTXN *txn, uint64 xid)
{
	if ((TransactionId) xid == txn->xid)
		return xid;
	return full_xid(txn->xid, ReadNextFullTransactionId());
}

/* Gives an event to the relay, or writes it for another user of the plugin. */
static void
pass_on(LogicalDecodingContext *ctx, ReorderBufferTXN *txn, Event *event)
{
	PluginState *state = ctx->output_plugin_private;

	event->xid = inserted_by(txn, event->xid);
	if (state->sink)
	{
		Commit		commit = {.end = txn->end_lsn,
		.time = state->commit_time};

		state->sink->event(state->sink->arg, event, &commit);
		return;
	}
	OutputPluginPrepareWrite(ctx, true);
	if (ctx->options.output_type == OUTPUT_PLUGIN_BINARY_OUTPUT)
		event_to_frame(ctx->out, event, state->commit_time);
	else
		event_to_text(ctx->out, event);
	OutputPluginWrite(ctx, true);
}

/*
 * When the transaction committed here.  The time that decoding hands over is
 * another one for a session with a replication origin: what that says of its
 * source, which is nothing at first, and is old later on.
 */
static TimestampTz
commit_time(XLogReaderState *record)
{
	/*
	 * We decode neither what is prepared nor what is in progress, so the
	 * record that is being looked at is that of the commit.
	 */
	Assert(XLogRecGetRmid(record) == RM_XACT_ID);
	return ((xl_xact_commit *) XLogRecGetData(record))->xact_time;
}

static void
plugin_begin(LogicalDecodingContext *ctx, ReorderBufferTXN *txn)
{
	PluginState *state = ctx->output_plugin_private;

	state->commit_time = commit_time(ctx->reader);
}

static void
plugin_change(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			  Relation relation, ReorderBufferChange *change)
{
	PluginState *state = ctx->output_plugin_private;
	MemoryContext old;
	HeapTuple	tuple;
	Event		event;

	if (change->action != REORDER_BUFFER_CHANGE_INSERT ||
		!is_event_relation(state, relation))
		return;
	tuple = compat_new_tuple(change);
	if (tuple == NULL)
		elog(ERROR, "decoded an insertion without its row");
#ifdef OUTBOX_CHECK_FOREIGN
	foreign_changes_check_event(change->lsn, relation);
#endif

	old = MemoryContextSwitchTo(state->event_context);
	event_from_tuple(&event, tuple, RelationGetDescr(relation));
	if (event.database_id == own_database_id())
		pass_on(ctx, txn, &event);
	MemoryContextSwitchTo(old);
	MemoryContextReset(state->event_context);
}

static void
plugin_commit(LogicalDecodingContext *ctx, ReorderBufferTXN *txn,
			  XLogRecPtr commit_lsn)
{
	PluginState *state = ctx->output_plugin_private;

	if (state->sink)
		state->sink->commit(state->sink->arg, txn->end_lsn);
}

/*
 * Called by logical decoding when a slot names "outbox" as its plugin.
 */
void
_PG_output_plugin_init(OutputPluginCallbacks *cb)
{
	cb->startup_cb = plugin_startup;
	cb->begin_cb = plugin_begin;
	cb->change_cb = plugin_change;
	cb->commit_cb = plugin_commit;
}
