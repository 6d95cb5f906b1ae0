/*-------------------------------------------------------------------------
 *
 * subscribe.c
 *	  inbox.subscribe() and inbox.unsubscribe().
 *
 * A subscription is a row of inbox.subscription.  It is checked as a whole
 * before the row is written, in the caller's transaction; the workers see it
 * when that commits.
 *
 * To subscribe again changes the subscription to what the call says, which is
 * nothing when it says the same.  It stays that of the role that subscribed
 * first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "inbox/batch/handler_call.h"
#include "inbox/sql/arguments.h"
#include "inbox/sql/quota.h"
#include "inbox/sql/subscription_changes.h"
#include "inbox/subscription/handler_lookup.h"
#include "inbox/table/run_as_owner.h"
#include "registry/databases.h"

#define MAX_ATTEMPTS 1000
#define MAX_BATCH_SIZE 100000
#define MAX_WORKERS 64
#define MAX_BACKOFF_MS (24 * 60 * 60 * INT64CONST(1000))
#define MAX_TIMEOUT_MS (24 * 60 * 60 * INT64CONST(1000))
#define MAX_KEEP_MS (3660 * 24 * 60 * 60 * INT64CONST(1000))

PG_FUNCTION_INFO_V1(outbox_subscribe);
PG_FUNCTION_INFO_V1(outbox_unsubscribe);

/* The arguments of subscribe(), and the parameters of its statements. */
enum
{
	ARG_NAME,
	ARG_TOPICS,
	ARG_HANDLER,
	ARG_START,
	ARG_MAX_ATTEMPTS,
	ARG_RETRY_BACKOFF,
	ARG_ORDERING,
	ARG_ON_FAILURE,
	ARG_BATCH_SIZE,
	ARG_WORKERS,
	ARG_FILTER_EVENT_TYPES,
	ARG_ISOLATION,
	ARG_KEEP,
	ARG_HANDLER_TIMEOUT,
	ARG_GROUP_ID,
	ARG_SERVER,
	ARG_DEDUPE,
	ARG_ID_HEADER,
	ARG_TYPE_HEADER,
	ARG_ID_FIELD,
	ARG_AGGREGATE_ID_FIELD,
	ARG_TYPE_FIELD,
	ARG_DEDUPE_SCOPE,
	ARG_ON_CONFLICT,
	ARG_BATCH_TIME,
	NARGS,
	PARAM_ROLE = NARGS,
	PARAM_TAKES_ARRAY,
	NPARAMS
};

typedef struct Argument
{
	const char *name;
	Oid			type;
	bool		nullable;
} Argument;

static const Argument arguments[NARGS] = {
	{"name", TEXTOID, false},
	{"topics", TEXTARRAYOID, false},
	{"handler", TEXTOID, false},
	{"start", TEXTOID, false},
	{"max_attempts", INT4OID, false},
	{"retry_backoff", INTERVALOID, false},
	{"ordering", TEXTOID, false},
	{"on_failure", TEXTOID, false},
	{"batch_size", INT4OID, false},
	{"workers", INT4OID, false},
	{"filter_event_types", TEXTARRAYOID, true},
	{"isolation", TEXTOID, false},
	{"keep", INTERVALOID, true},
	{"handler_timeout", INTERVALOID, false},
	{"group_id", TEXTOID, true},
	{"server", TEXTOID, false},
	{"dedupe", TEXTOID, false},
	{"id_header", TEXTOID, true},
	{"type_header", TEXTOID, true},
	{"id_field", TEXTOID, true},
	{"aggregate_id_field", TEXTOID, true},
	{"type_field", TEXTOID, true},
	{"dedupe_scope", TEXTOID, false},
	{"on_conflict", TEXTOID, false},
	{"batch_time", INTERVALOID, false}
};

static const char *const orderings[] = {"key", "partition", "none"};
static const char *const failure_actions[] = {"dead_letter", "stop"};
static const char *const dedupe_kinds[] = {"header", "field", "offset", "none"};
static const char *const dedupe_scopes[] = {"topic", "subscription"};
static const char *const conflict_actions[] = {"ignore", "error"};

/* Kafka's levels, and stricter ones of the handler's transaction. */
static const char *const isolations[] = {
	"read_committed", "read_uncommitted", "repeatable_read", "serializable"
};

static const char insert_statement[] =
"INSERT INTO inbox.subscription (name, topics, handler, start, max_attempts,"
" retry_backoff, ordering, on_failure, batch_size, workers,"
" filter_event_types, isolation, keep, handler_timeout, group_id, server,"
" dedupe, id_header, type_header, id_field, aggregate_id_field, type_field,"
" dedupe_scope, on_conflict, batch_time, role_id, role_name, takes_array)"
" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
" $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26,"
" pg_catalog.pg_get_userbyid($26), $27)"
" ON CONFLICT DO NOTHING";

static const char update_statement[] =
"UPDATE inbox.subscription SET topics = $2, handler = $3, start = $4,"
" max_attempts = $5, retry_backoff = $6, ordering = $7, on_failure = $8,"
" batch_size = $9, workers = $10, filter_event_types = $11, isolation = $12,"
" keep = $13, handler_timeout = $14, group_id = $15, server = $16,"
" dedupe = $17, id_header = $18, type_header = $19, id_field = $20,"
" aggregate_id_field = $21, type_field = $22, dedupe_scope = $23,"
" on_conflict = $24, batch_time = $25,"
" role_name = pg_catalog.pg_get_userbyid($26), takes_array = $27,"
" generation = generation OPERATOR(pg_catalog.+) 1, changed_at = pg_catalog.now()"
" WHERE name OPERATOR(pg_catalog.=) $1 AND NOT"
" (ROW(topics, handler, start, max_attempts, retry_backoff, ordering,"
" on_failure, batch_size, workers, filter_event_types, isolation, keep,"
" handler_timeout, group_id, server, dedupe, id_header, type_header, id_field,"
" aggregate_id_field, type_field, dedupe_scope, on_conflict, batch_time,"
" takes_array)"
"::pg_catalog.record OPERATOR(pg_catalog.*=)"
" ROW($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
" $16::pg_catalog.name, $17, $18, $19, $20, $21, $22, $23, $24, $25, $27)"
"::pg_catalog.record)";

/* Positions in topics that the subscription does not have any more. */
static const char forget_statement[] =
"DELETE FROM inbox.position p"
" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND NOT EXISTS ("
" SELECT FROM pg_catalog.unnest($2) t"
" WHERE CASE WHEN pg_catalog.starts_with(t, '^')"
" THEN p.topic OPERATOR(pg_catalog.~) t"
" ELSE p.topic OPERATOR(pg_catalog.=) t END)";

#define TEXT_ARG(n) text_to_cstring(PG_GETARG_TEXT_PP(n))

/* Checks the arguments about what identifies messages. */
static void
check_identity_arguments(FunctionCallInfo fcinfo)
{
	check_choice("dedupe", TEXT_ARG(ARG_DEDUPE),
				 dedupe_kinds, lengthof(dedupe_kinds));
	for (int i = ARG_ID_HEADER; i <= ARG_TYPE_HEADER; i++)
		if (!PG_ARGISNULL(i))
			check_header(arguments[i].name, TEXT_ARG(i));
	for (int i = ARG_ID_FIELD; i <= ARG_TYPE_FIELD; i++)
		if (!PG_ARGISNULL(i))
			check_field(arguments[i].name, TEXT_ARG(i));
	check_id_field(TEXT_ARG(ARG_DEDUPE), PG_ARGISNULL(ARG_ID_FIELD) ? NULL :
				   TEXT_ARG(ARG_ID_FIELD));
	check_choice("dedupe_scope", TEXT_ARG(ARG_DEDUPE_SCOPE),
				 dedupe_scopes, lengthof(dedupe_scopes));
	check_choice("on_conflict", TEXT_ARG(ARG_ON_CONFLICT),
				 conflict_actions, lengthof(conflict_actions));
}

/* Checks the arguments that need nothing but themselves. */
static void
check_arguments(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < NARGS; i++)
		if (!arguments[i].nullable)
			argument_required(arguments[i].name, PG_ARGISNULL(i));

	check_name(TEXT_ARG(ARG_NAME));
	check_topics(PG_GETARG_ARRAYTYPE_P(ARG_TOPICS));
	check_range("max_attempts", PG_GETARG_INT32(ARG_MAX_ATTEMPTS),
				1, MAX_ATTEMPTS);
	check_interval("retry_backoff", PG_GETARG_INTERVAL_P(ARG_RETRY_BACKOFF),
				   0, MAX_BACKOFF_MS, "Allowed are 0 to 1 day.");
	check_choice("ordering", TEXT_ARG(ARG_ORDERING),
				 orderings, lengthof(orderings));
	check_choice("on_failure", TEXT_ARG(ARG_ON_FAILURE),
				 failure_actions, lengthof(failure_actions));
	check_range("batch_size", PG_GETARG_INT32(ARG_BATCH_SIZE),
				1, MAX_BATCH_SIZE);
	check_range("workers", PG_GETARG_INT32(ARG_WORKERS), 1, MAX_WORKERS);
	if (!PG_ARGISNULL(ARG_FILTER_EVENT_TYPES))
		check_event_types(PG_GETARG_ARRAYTYPE_P(ARG_FILTER_EVENT_TYPES));
	check_choice("isolation", TEXT_ARG(ARG_ISOLATION),
				 isolations, lengthof(isolations));
	if (!PG_ARGISNULL(ARG_KEEP))
		check_interval("keep", PG_GETARG_INTERVAL_P(ARG_KEEP), 0, MAX_KEEP_MS,
					   "Allowed are 0, which keeps nothing, to 10 years; leave it out to keep messages for inbox.dedupe_window.");
	check_interval("handler_timeout", PG_GETARG_INTERVAL_P(ARG_HANDLER_TIMEOUT),
				   1, MAX_TIMEOUT_MS, "Allowed are 1 ms to 1 day.");
	check_interval("batch_time", PG_GETARG_INTERVAL_P(ARG_BATCH_TIME),
				   1, MAX_TIMEOUT_MS, "Allowed are 1 ms to 1 day.");
	if (!PG_ARGISNULL(ARG_GROUP_ID))
		check_group_id(TEXT_ARG(ARG_GROUP_ID));
	check_identity_arguments(fcinfo);
}

/* Stores a new subscription, or changes an old one. */
static void
store_subscription(const char *name, const Datum *values, const bool *nulls)
{
	Oid			types[NPARAMS];
	SqlCaller	caller;
	bool		inserted;

	for (int i = 0; i < NARGS; i++)
		types[i] = arguments[i].type;
	types[PARAM_ROLE] = OIDOID;
	types[PARAM_TAKES_ARRAY] = BOOLOID;

	owner_sql_begin(&caller);
	inserted = owner_sql_execute(insert_statement, NPARAMS, types, values, nulls) > 0;
	owner_sql_end(&caller);
	if (inserted)
		return;

	/* Another session may have made it, as another role, while we waited. */
	subscription_check_role(name, DatumGetObjectId(values[PARAM_ROLE]));
	owner_sql_begin(&caller);
	if (owner_sql_execute(update_statement, NPARAMS, types, values, nulls) > 0)
		(void) owner_sql_execute(forget_statement, ARG_TOPICS + 1, types, values, nulls);
	owner_sql_end(&caller);
}

/*
 * subscribe(name text, topics text[], handler text, start text, ...)
 *		RETURNS void: see the arguments above.
 */
Datum
outbox_subscribe(PG_FUNCTION_ARGS)
{
	Datum		values[NPARAMS];
	bool		nulls[NPARAMS];
	Oid			role = GetUserId();
	char	   *name;
	Oid			function;
	bool		takes_array;

	if (PG_NARGS() != NARGS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("function inbox.subscribe is that of another version of extension outbox than the library"),
				 errdetail("It has %d arguments, and the library knows %d.",
						   PG_NARGS(), NARGS),
				 errhint("Run ALTER EXTENSION outbox UPDATE in this database.")));
	check_arguments(fcinfo);
	for (int i = 0; i < NARGS; i++)
	{
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull;
	}
	name = TEXT_ARG(ARG_NAME);
	values[ARG_START] =
		CStringGetTextDatum(normalize_start(TEXT_ARG(ARG_START)));

	/* Who names a field for the id wants messages to be told by it. */
	if (strcmp(TEXT_ARG(ARG_DEDUPE), "header") == 0 && !nulls[ARG_ID_FIELD])
		values[ARG_DEDUPE] = CStringGetTextDatum("field");

	/* The handler of one that exists runs as the role that it belongs to. */
	role = subscription_role(name, true);
	values[ARG_HANDLER] =
		CStringGetTextDatum(resolve_handler(TEXT_ARG(ARG_HANDLER),
											HANDLER_OF_ANY, role, &function,
											&takes_array));
	check_server(TEXT_ARG(ARG_SERVER), GetUserId());
	check_server(TEXT_ARG(ARG_SERVER), role);
	if (!nulls[ARG_GROUP_ID])
		check_group_rights(TEXT_ARG(ARG_GROUP_ID), TEXT_ARG(ARG_SERVER));
	quota_check_workers(name, role, PG_GETARG_INT32(ARG_WORKERS));
	if (!nulls[ARG_KEEP])
		quota_check_keep(name, values[ARG_KEEP]);
	values[PARAM_ROLE] = ObjectIdGetDatum(role);
	values[PARAM_TAKES_ARRAY] = BoolGetDatum(takes_array);
	nulls[PARAM_ROLE] = nulls[PARAM_TAKES_ARRAY] = false;
	store_subscription(name, values, nulls);
	if (!shmem_available())
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is stored, but nothing works on it", name),
				 errdetail("The server was started without outbox."),
				 errhint("Add outbox to shared_preload_libraries and restart the server.")));
	PG_RETURN_VOID();
}

/*
 * unsubscribe(name text, keep_messages boolean) RETURNS void
 *
 * Ends a subscription.  Unless its messages are kept, a new one of the name
 * begins as if there had been none before.  To find them reads all of
 * inbox.message: processed ones are in no index, which would cost something
 * with each message, and this is rare.
 */
Datum
outbox_unsubscribe(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID};
	Datum		values[1];
	char	   *name;
	SqlCaller	caller;

	argument_required("name", PG_ARGISNULL(0));
	argument_required("keep_messages", PG_ARGISNULL(1));
	name = TEXT_ARG(0);
	subscription_lock(name);
	handler_refuse_to_move(name);
	values[0] = CStringGetTextDatum(name);

	owner_sql_begin(&caller);

	/*
	 * Then the positions: from then on no worker can commit, so that nothing
	 * is left.  One that is trying messages again has locked these first, and
	 * gives way: see redelivery.c.
	 */
	(void) owner_sql_execute("DELETE FROM inbox.position"
							 " WHERE subscription OPERATOR(pg_catalog.=) $1",
							 1, types, values, NULL);
	if (!PG_GETARG_BOOL(1))
	{
		/* Names with a topic begin with "@<name>/"; "0" comes after "/". */
		(void) owner_sql_execute("DELETE FROM inbox.message"
								 " WHERE subscription OPERATOR(pg_catalog.=) $1",
								 1, types, values, NULL);
		(void) owner_sql_execute("DELETE FROM inbox.received"
								 " WHERE consumer OPERATOR(pg_catalog.=) ('@' OPERATOR(pg_catalog.||) $1)"
								 " OR (consumer OPERATOR(pg_catalog.>=) ('@' OPERATOR(pg_catalog.||) $1 OPERATOR(pg_catalog.||) '/')"
								 " AND consumer OPERATOR(pg_catalog.<) ('@' OPERATOR(pg_catalog.||) $1 OPERATOR(pg_catalog.||) '0'))",
								 1, types, values, NULL);
	}
	(void) owner_sql_execute("DELETE FROM inbox.subscription"
							 " WHERE name OPERATOR(pg_catalog.=) $1",
							 1, types, values, NULL);
	owner_sql_end(&caller);
	PG_RETURN_VOID();
}
