/*-------------------------------------------------------------------------
 *
 * quota.c
 *	  How much the subscriptions of a role may take.
 *
 * The bounds are settings that superusers make, for all, for a database or for
 * a role.  Those of the session that calls inbox.subscribe() count, when it asks
 * for more than there was: what a subscription has already it may keep.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/sql/quota.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "core/guc.h"
#include "inbox/table/run_as_owner.h"

/* A number of the only row. */
static int64
number(int column)
{
	bool		isnull;

	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, column, &isnull));
}

/*
 * Raises an error when a subscription of a role is to have more workers than it
 * has, if it has any, and with those of the role's other subscriptions in this
 * database they are more than the session may make.
 */
void
quota_check_workers(const char *name, Oid role, int workers)
{
	Oid			types[] = {TEXTOID, OIDOID};
	Datum		values[] = {CStringGetTextDatum(name), ObjectIdGetDatum(role)};
	SqlCaller	caller;
	int64		others;
	int64		before;

	if (inbox_max_workers_per_role < 0)
		return;
	/* Until the end of the transaction nobody else counts them. */
	LockSharedObject(AuthIdRelationId, role, 0, ShareUpdateExclusiveLock);
	owner_sql_begin(&caller);
	(void) owner_sql_execute("SELECT coalesce(pg_catalog.sum(workers) FILTER (WHERE name OPERATOR(pg_catalog.<>) $1), 0)::pg_catalog.int8,"
							 " coalesce(pg_catalog.sum(workers) FILTER (WHERE name OPERATOR(pg_catalog.=) $1), 0)::pg_catalog.int8"
							 " FROM inbox.subscription WHERE role_id OPERATOR(pg_catalog.=) $2"
							 " AND database_id OPERATOR(pg_catalog.=) outbox.database_id()",
							 2, types, values, NULL);
	others = number(1);
	before = number(2);
	owner_sql_end(&caller);
	if (workers <= before || others + workers <= inbox_max_workers_per_role)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("too many workers for subscriptions of role \"%s\"",
					GetUserNameFromId(role, false)),
			 errdetail("Its other subscriptions have " INT64_FORMAT " workers, \"%s\" is to have %d, and inbox.max_workers_per_role is %d.",
					   others, name, workers, inbox_max_workers_per_role),
			 errhint("Ask for fewer workers, end another subscription, or have a superuser raise inbox.max_workers_per_role, for example with ALTER ROLE ... SET.")));
}

/*
 * Raises an error when a subscription is to keep messages, for an interval, for
 * longer than it does, if there is one, and than the session may have.
 */
void
quota_check_keep(const char *name, Datum keep)
{
	Oid			types[] = {TEXTOID, INTERVALOID, INT4OID};
	Datum		values[] = {CStringGetTextDatum(name), keep,
	Int32GetDatum(inbox_max_keep)};
	SqlCaller	caller;
	bool		allowed;

	if (inbox_max_keep < 0)
		return;
	owner_sql_begin(&caller);
	allowed = owner_sql_execute("SELECT WHERE $2 OPERATOR(pg_catalog.<=) pg_catalog.make_interval(secs => $3)"
								" OR EXISTS (SELECT FROM inbox.subscription"
								"  WHERE name OPERATOR(pg_catalog.=) $1 AND keep OPERATOR(pg_catalog.>=) $2)",
								3, types, values, NULL) > 0;
	owner_sql_end(&caller);
	if (allowed)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("\"keep\" of subscription \"%s\" is too long", name),
			 errdetail("Allowed by inbox.max_keep is %s.",
					   GetConfigOptionByName("inbox.max_keep", NULL, false)),
			 errhint("Keep messages for less, leave the argument out to keep them for inbox.dedupe_window, or have a superuser raise inbox.max_keep, for example with ALTER ROLE ... SET.")));
}
