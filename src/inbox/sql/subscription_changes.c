/*-------------------------------------------------------------------------
 *
 * subscription_changes.c
 *	  Subscriptions that exist: who may change them, and pause(), resume() and
 *	  seek().
 *
 * A subscription belongs to the role that subscribed.  In a copy of the
 * database, which may be in a cluster with other roles, that is found by its
 * name; elsewhere by its oid, so that a role of the same name that came later
 * is somebody else.
 *
 * Each function ends with a change of inbox.subscription, which makes the
 * workers look.  Rows are locked in the order in which workers lock them:
 * messages, positions, subscription.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/sql/subscription_changes.h"

#include <limits.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/database_id.h"
#include "inbox/batch/handler_call.h"
#include "inbox/batch/unprocessed_rows.h"
#include "inbox/sql/arguments.h"
#include "inbox/table/run_as_owner.h"

PG_FUNCTION_INFO_V1(outbox_subscription_pause);
PG_FUNCTION_INFO_V1(outbox_subscription_resume);
PG_FUNCTION_INFO_V1(outbox_subscription_seek_text);
PG_FUNCTION_INFO_V1(outbox_subscription_seek_offset);
PG_FUNCTION_INFO_V1(outbox_subscription_seek_time);

/* What the functions need to know about a subscription. */
typedef struct SubscriptionRow
{
	bool		exists;
	bool		is_copy;		/* it is for another database */
	bool		paused;
	char	   *stopped_by;		/* NULL when it is not stopped */
	char	   *role_name;
	Oid			role;			/* InvalidOid when there is none any more */
} SubscriptionRow;

/* Reads a column of the first row as text; NULL when it is null. */
static char *
column_text(int column)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

/*
 * Reads a subscription, in the caller's memory context, and locks it: FOR KEY
 * SHARE, so that until the end of the transaction nobody can remove it and make
 * another one of the name, or FOR UPDATE.
 */
static void
read_row(const char *name, const char *lock, SubscriptionRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	SqlCaller	caller;

	memset(row, 0, sizeof(*row));
	owner_sql_begin(&caller);
	row->exists = owner_sql_execute(psprintf("SELECT database_id, paused, stopped_by, role_name, role_id"
											 " FROM inbox.subscription "
											 " WHERE name OPERATOR(pg_catalog.=) $1 %s", lock),
									1, types, values, NULL) > 0;
	if (row->exists)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		char	   *stopped_by = column_text(3);

		row->is_copy = pg_strtoint32(column_text(1)) != own_database_id();
		row->paused = column_text(2)[0] == 't';
		row->stopped_by = stopped_by ? pstrdup(stopped_by) : NULL;
		row->role_name = pstrdup(column_text(4));
		row->role = row->is_copy ? get_role_oid(row->role_name, true) :
			(Oid) strtoul(column_text(5), NULL, 10);
		MemoryContextSwitchTo(old);
	}
	owner_sql_end(&caller);
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(row->role)))
		row->role = InvalidOid;
	/* It may have been renamed since. */
	if (OidIsValid(row->role))
		row->role_name = GetUserNameFromId(row->role, false);
}

/* Raises the error that the current user may not change a subscription. */
static void
raise_denied(const char *name, const SubscriptionRow *row)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for subscription \"%s\"", name),
			 errdetail("It belongs to role \"%s\"%s.", row->role_name,
					   OidIsValid(row->role) ? "" : ", which does not exist any more"),
			 errhint("Only that role, its members and superusers may change it.")));
}

/*
 * Reads and locks a subscription that must exist and belong to the current
 * user.  Raises an error otherwise.
 */
static void
lock_own_row(const char *name, const char *lock, SubscriptionRow *row)
{
	read_row(name, lock, row);
	if (!row->exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("View inbox.stat_subscription lists those that exist.")));
	if (!superuser() &&
		!(OidIsValid(row->role) && has_privs_of_role(GetUserId(), row->role)))
		raise_denied(name, row);
}

/* The same with the lock of those who change it. */
static void
read_own_row(const char *name, SubscriptionRow *row)
{
	lock_own_row(name, "FOR KEY SHARE", row);
}

/*
 * Locks a subscription that is to be removed.  Raises an error unless the
 * current user may do that.  Waits here for other sessions that change it: later
 * they would wait for what this one has locked by then.
 */
void
subscription_lock(const char *name)
{
	SubscriptionRow row;

	lock_own_row(name, "FOR UPDATE", &row);
}

/*
 * Another session has made a subscription since this one found none of the
 * name.  Raises an error unless it belongs to the role, as that of this session
 * would.
 */
void
subscription_check_role(const char *name, Oid role)
{
	SubscriptionRow row;

	read_own_row(name, &row);
	if (row.role != role)
		raise_denied(name, &row);
}

/*
 * The role that a subscription belongs to; or, when there is none of the name
 * and missing_ok, the current user, to whom it would belong.  Raises an error
 * unless the current user may change it.
 */
Oid
subscription_role(const char *name, bool missing_ok)
{
	SubscriptionRow row;

	if (missing_ok)
	{
		read_row(name, "FOR KEY SHARE", &row);
		if (!row.exists)
			return GetUserId();
	}
	read_own_row(name, &row);
	if (missing_ok && OidIsValid(row.role) &&
		!compat_may_become(GetUserId(), row.role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for subscription \"%s\"", name),
				 errdetail("Its handler runs as role \"%s\", which you may not become.",
						   row.role_name),
				 errhint("Membership in that role is needed, WITH SET TRUE.")));
	if (missing_ok && !OidIsValid(row.role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" of subscription \"%s\" does not exist any more",
						row.role_name, name),
				 errhint("Call inbox.unsubscribe('%s') before you subscribe as another role.",
						 name)));
	return row.role;
}

/* The name, the first argument, of a subscription that the caller may change. */
static char *
own_subscription(FunctionCallInfo fcinfo, SubscriptionRow *row)
{
	char	   *name;

	argument_required("name", PG_ARGISNULL(0));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	read_own_row(name, row);
	return name;
}

/*
 * The name, the first argument of a function, of a subscription that must exist
 * and that the current user may change.  Raises an error otherwise.
 */
char *
subscription_own(FunctionCallInfo fcinfo)
{
	SubscriptionRow row;

	return own_subscription(fcinfo, &row);
}

/*
 * Runs the last statement of a function, which changes the subscription whose
 * name is its first parameter.  Raises an error when it has gone meanwhile.
 */
void
subscription_change(const char *name, const char *statement, int nargs,
					const Oid *types, const Datum *values, const bool *nulls)
{
	if (owner_sql_execute(statement, nargs, types, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name),
				 errdetail("Another session has just removed it.")));
}

/*
 * pause(name text) RETURNS void: the workers finish their batch and rest.
 */
Datum
outbox_subscription_pause(PG_FUNCTION_ARGS)
{
	SubscriptionRow row;
	char	   *name = own_subscription(fcinfo, &row);
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(name)};
	SqlCaller	caller;

	if (row.paused)
		PG_RETURN_VOID();
	owner_sql_begin(&caller);
	subscription_change(name, "UPDATE inbox.subscription SET paused = true,"
						" generation = generation OPERATOR(pg_catalog.+) 1, changed_at = pg_catalog.now()"
						" WHERE name OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
	owner_sql_end(&caller);
	PG_RETURN_VOID();
}

/*
 * resume(name text) RETURNS void: ends a pause, also that of a subscription
 * which came with a copy of the database.
 */
Datum
outbox_subscription_resume(PG_FUNCTION_ARGS)
{
	SubscriptionRow row;
	char	   *name = own_subscription(fcinfo, &row);
	Oid			types[] = {TEXTOID, OIDOID};
	Datum		values[] = {CStringGetTextDatum(name), ObjectIdGetDatum(row.role)};
	SqlCaller	caller;

	if (!OidIsValid(row.role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" of subscription \"%s\" does not exist",
						row.role_name, name),
				 errdetail("Its handler would run as that role."),
				 row.is_copy ?
				 errhint("Create the role first, or unsubscribe and subscribe as another role.") :
				 errhint("Unsubscribe and subscribe as another role.")));
	if (!row.paused && !row.is_copy && row.stopped_by)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is not paused but stopped", name),
				 errdetail("Message \"%s\" stopped it.", row.stopped_by),
				 errhint("Call inbox.retry() or inbox.discard() for that message.")));
	if (!row.paused && !row.is_copy)
		PG_RETURN_VOID();
	owner_sql_begin(&caller);
	subscription_change(name, "UPDATE inbox.subscription SET paused = false,"
						" database_id = outbox.database_id(), role_id = $2,"
						" generation = generation OPERATOR(pg_catalog.+) 1, changed_at = pg_catalog.now()"
						" WHERE name OPERATOR(pg_catalog.=) $1", 2, types, values, NULL);
	owner_sql_end(&caller);
	PG_RETURN_VOID();
}

/* Raises an error unless the subscription takes messages from the topic. */
static void
check_takes_topic(const char *name, const Datum *values)
{
	Oid			types[] = {TEXTOID, TEXTOID};

	if (owner_sql_execute("SELECT FROM inbox.subscription s, pg_catalog.unnest(s.topics) t"
						  " WHERE s.name OPERATOR(pg_catalog.=) $1"
						  " AND CASE WHEN pg_catalog.starts_with(t, '^')"
						  " THEN $2 OPERATOR(pg_catalog.~) t"
						  " ELSE $2 OPERATOR(pg_catalog.=) t END",
						  2, types, values, NULL) > 0)
		return;
	(void) owner_sql_execute("SELECT topics FROM inbox.subscription"
							 " WHERE name OPERATOR(pg_catalog.=) $1",
							 1, types, values, NULL);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("subscription \"%s\" does not take topic \"%s\"",
					name, TextDatumGetCString(values[1])),
			 SPI_processed > 0 ?
			 errdetail("Its topics are %s.", column_text(1)) : 0,
			 errhint("Name one of its topics.")));
}

/*
 * Makes a subscription go on elsewhere in a partition: at an offset, or at a
 * time when the offset is negative.  What is to be processed again is told from
 * what was since by the times in inbox.received, so that of this call is behind
 * all of them, also when the clock was set back.
 */
static void
seek(FunctionCallInfo fcinfo, int64 offset, TimestampTz time)
{
	SubscriptionRow row;
	char	   *name = own_subscription(fcinfo, &row);
	Oid			types[] = {TEXTOID, TEXTOID, INT4OID, INT8OID, TIMESTAMPTZOID, BOOLOID};
	Datum		values[6];
	bool		nulls[6] = {false};
	SqlCaller	caller;

	handler_refuse_to_move(name);
	/* Kafka has other meanings for negative times. */
	if (offset < 0 && time < (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)
		time = DT_NOBEGIN;
	argument_required("topic", PG_ARGISNULL(1));
	argument_required("partition", PG_ARGISNULL(2));
	argument_required("rerun", PG_ARGISNULL(4));
	check_range("partition", PG_GETARG_INT32(2), 0, INT_MAX);

	values[0] = CStringGetTextDatum(name);
	for (int i = 1; i <= 2; i++)
		values[i] = fcinfo->args[i].value;
	values[3] = Int64GetDatum(offset);
	nulls[3] = offset < 0;
	values[4] = TimestampTzGetDatum(time);
	nulls[4] = !nulls[3];
	values[5] = fcinfo->args[4].value;

	owner_sql_begin(&caller);
	check_takes_topic(name, values);
	unprocessed_rename(types, values);
	/* The next offset stays until the time is known: to show the lag. */
	(void) owner_sql_execute("INSERT INTO inbox.position AS p"
							 " (subscription, topic, partition, next_offset, seek_time)"
							 " VALUES ($1, $2, $3, $4, $5)"
							 " ON CONFLICT (subscription, topic, partition) DO UPDATE"
							 " SET next_offset = coalesce($4, p.next_offset), seek_time = $5,"
							 " rerun_until = CASE WHEN $6 THEN greatest(p.rerun_until, p.next_offset) END,"
							 " rerun_since = CASE WHEN $6 THEN greatest(pg_catalog.clock_timestamp(),"
							 "  (SELECT pg_catalog.max(l.latest_receipt) FROM inbox.position l"
							 "   WHERE l.subscription OPERATOR(pg_catalog.=) $1)"
							 "  OPERATOR(pg_catalog.+) '1 us'::pg_catalog.interval) END,"
							 " lost_from = NULL, lost_until = NULL, lost_reason = NULL,"
							 " last_offset = -1, before_offset = -1, cluster_id = NULL,"
							 " fence = p.fence OPERATOR(pg_catalog.+) 1, updated_at = pg_catalog.now()",
							 6, types, values, nulls);
	subscription_change(name, "UPDATE inbox.subscription"
						" SET generation = generation OPERATOR(pg_catalog.+) 1, changed_at = pg_catalog.now()"
						" WHERE name OPERATOR(pg_catalog.=) $1", 1, types, values, NULL);
	owner_sql_end(&caller);
}

/*
 * seek(name text, topic text, partition integer, position text, rerun boolean)
 *		RETURNS void
 */
Datum
outbox_subscription_seek_text(PG_FUNCTION_ARGS)
{
	char	   *position;
	char	   *end;
	int64		offset;

	argument_required("position", PG_ARGISNULL(3));
	position = text_to_cstring(PG_GETARG_TEXT_PP(3));
	if (strcmp(position, "earliest") == 0)
		seek(fcinfo, -1, DT_NOBEGIN);
	else if (strcmp(position, "latest") == 0)
		seek(fcinfo, -1, DT_NOEND);
	else if (position[0] != '\0' && strspn(position, "0123456789") == strlen(position))
	{
		errno = 0;
		offset = strtoi64(position, &end, 10);
		if (errno != 0)
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("offset \"%s\" is out of range", position),
					 errhint("Allowed are 0 to " INT64_FORMAT ".", PG_INT64_MAX)));
		seek(fcinfo, offset, 0);
	}
	else
		seek(fcinfo, -1,
			 parse_time("position", position,
						"Allowed are an offset, \"earliest\", \"latest\", or a time such as \"2030-01-31 12:00:00+00\"."));
	PG_RETURN_VOID();
}

/* The same with a number as the position. */
Datum
outbox_subscription_seek_offset(PG_FUNCTION_ARGS)
{
	argument_required("position", PG_ARGISNULL(3));
	if (PG_GETARG_INT64(3) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("offset " INT64_FORMAT " is out of range",
						PG_GETARG_INT64(3)),
				 errhint("Allowed are 0 to " INT64_FORMAT ".", PG_INT64_MAX)));
	seek(fcinfo, PG_GETARG_INT64(3), 0);
	PG_RETURN_VOID();
}

/* The same with a time as the position. */
Datum
outbox_subscription_seek_time(PG_FUNCTION_ARGS)
{
	argument_required("position", PG_ARGISNULL(3));
	seek(fcinfo, -1, PG_GETARG_TIMESTAMPTZ(3));
	PG_RETURN_VOID();
}
