/*-------------------------------------------------------------------------
 *
 * failed_messages.c
 *	  inbox.retry() and inbox.discard(): what becomes of messages that failed
 *	  or wait.
 *
 * Ids of messages count within a topic, unless the subscription says
 * otherwise, so several may have the one that is asked for.  It is about all of
 * them then, or, with a topic, about that of the topic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "inbox/sql/arguments.h"
#include "inbox/sql/subscription_changes.h"
#include "inbox/table/run_as_owner.h"

PG_FUNCTION_INFO_V1(outbox_inbox_retry);
PG_FUNCTION_INFO_V1(outbox_inbox_discard);

/* The arguments of both, and the parameters of their statements. */
enum
{
	ARG_NAME,
	ARG_EVENT_ID,
	ARG_TOPIC,
	NARGS
};

/*
 * The messages that are meant.  With both statuses an id is looked up in
 * message_unprocessed_idx, whose second column they are, instead of being looked for
 * among all that failed.
 */
#define OF_ARGUMENTS \
	" WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" AND status OPERATOR(pg_catalog.<>) 'processed'" \
	" AND status OPERATOR(pg_catalog.=) ANY (ARRAY['failed', 'pending'])" \
	" AND ($2 IS NULL OR event_id OPERATOR(pg_catalog.=) $2)" \
	" AND ($3 IS NULL OR topic OPERATOR(pg_catalog.=) $3)"

/* Is the one that stopped the subscription among them? */
#define STOPPED_IT \
	"($2 IS NULL OR stopped_by OPERATOR(pg_catalog.=) $2)" \
	" AND ($3 IS NULL OR coalesce(stopped_topic OPERATOR(pg_catalog.=) $3, true))"

/*
 * Runs a statement on messages of a subscription: those with an id, of a topic,
 * or all.  A message that stopped the subscription does so no more.  Returns
 * the number of messages.
 */
static uint64
change_messages(FunctionCallInfo fcinfo, const char *statement)
{
	char	   *name = subscription_own(fcinfo);
	Oid			types[NARGS] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[NARGS] = {CStringGetTextDatum(name)};
	bool		nulls[NARGS] = {false, true, true};
	SqlCaller	caller;
	uint64		n;

	/* The extension may still be of the version without the last one. */
	for (int i = ARG_EVENT_ID; i < Min(PG_NARGS(), NARGS); i++)
	{
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull;
	}
	owner_sql_begin(&caller);
	owner_sql_insist_on_indexes();
	n = owner_sql_execute(statement, NARGS, types, values, nulls);
	subscription_change(name, "UPDATE inbox.subscription SET"
						" stopped_by = CASE WHEN " STOPPED_IT " THEN NULL ELSE stopped_by END,"
						" stopped_topic = CASE WHEN " STOPPED_IT " THEN NULL ELSE stopped_topic END,"
						" generation = generation OPERATOR(pg_catalog.+) 1, changed_at = pg_catalog.now()"
						" WHERE name OPERATOR(pg_catalog.=) $1", NARGS, types, values, nulls);
	owner_sql_end(&caller);
	return n;
}

/*
 * retry(name text, event_id text, topic text) RETURNS bigint
 *
 * Calls the handler again, now, for messages that failed: those with an id, of a
 * topic, or all.  Returns how many there are.
 */
Datum
outbox_inbox_retry(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(change_messages(fcinfo,
									"UPDATE inbox.message SET status = 'pending',"
									" attempts = 0, next_attempt_at = pg_catalog.now()"
									OF_ARGUMENTS
									" AND (status OPERATOR(pg_catalog.=) 'failed' OR attempts OPERATOR(pg_catalog.>) 0)"));
}

/*
 * discard(name text, event_id text, topic text) RETURNS boolean
 *
 * Gives up the messages with an id, of a topic or of all, that failed or wait.
 * False when there is none; a notice says when there are several.
 */
Datum
outbox_inbox_discard(PG_FUNCTION_ARGS)
{
	uint64		n;

	argument_required("event_id", PG_ARGISNULL(ARG_EVENT_ID));
	n = change_messages(fcinfo, "DELETE FROM inbox.message" OF_ARGUMENTS);
	if (n > 1)
		ereport(NOTICE,
				(errmsg(UINT64_FORMAT " messages with the id \"%s\" were discarded", n,
						text_to_cstring(PG_GETARG_TEXT_PP(ARG_EVENT_ID))),
				 errhint("Ids count within topics; to discard that of one topic only, name the topic.")));
	PG_RETURN_BOOL(n > 0);
}
