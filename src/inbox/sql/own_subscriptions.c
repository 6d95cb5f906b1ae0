/*-------------------------------------------------------------------------
 *
 * own_subscriptions.c
 *	  inbox.my_subscriptions() and inbox.my_failed_messages(): what a role may
 *	  see of its own subscriptions.
 *
 * They are functions, since with a view the caller would need rights on all
 * that it calls, and with those could look at the subscriptions of others.  The
 * owner of the tables reads them, and the caller's membership in the role of a
 * subscription decides what is shown.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/tuplestore.h"

#include "inbox/table/run_as_owner.h"

PG_FUNCTION_INFO_V1(outbox_my_subscriptions);
PG_FUNCTION_INFO_V1(outbox_my_failed_messages);

/*
 * Subscriptions of roles whose privileges role $1 has.  In a copy of the
 * database a role is known by its name, as in subscription_changes.c.
 */
#define OF_MINE \
	" JOIN inbox.subscription s ON s.name OPERATOR(pg_catalog.=) x.subscription" \
	" JOIN pg_catalog.pg_roles r ON CASE WHEN s.database_id OPERATOR(pg_catalog.=) outbox.database_id()" \
	"  THEN r.oid OPERATOR(pg_catalog.=) s.role_id" \
	"  ELSE r.rolname OPERATOR(pg_catalog.=) s.role_name END" \
	" WHERE pg_catalog.pg_has_role($1, r.oid, 'USAGE')"

/* Returns the rows of a query on behalf of the caller, who is parameter 1. */
static Datum
return_rows(FunctionCallInfo fcinfo, const char *query)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[] = {OIDOID};
	Datum		values[] = {ObjectIdGetDatum(GetUserId())};
	SqlCaller	caller;

	InitMaterializedSRF(fcinfo, 0);
	owner_sql_begin_reading(&caller);
	(void) owner_sql_execute(query, 1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
	owner_sql_end(&caller);
	return (Datum) 0;
}

/*
 * my_subscriptions() RETURNS SETOF inbox.stat_subscription
 *
 * The rows of inbox.stat_subscription about subscriptions that the caller may
 * change.
 */
Datum
outbox_my_subscriptions(PG_FUNCTION_ARGS)
{
	return return_rows(fcinfo,
					   "SELECT v.* FROM inbox.stat_subscription v"
					   " CROSS JOIN LATERAL (SELECT v.name) x (subscription)"
					   OF_MINE " ORDER BY v.name");
}

/*
 * my_failed_messages() RETURNS SETOF inbox.message
 *
 * The messages of such subscriptions that have failed for good, or are to be
 * tried again after an error.
 */
Datum
outbox_my_failed_messages(PG_FUNCTION_ARGS)
{
	return return_rows(fcinfo,
					   "SELECT x.* FROM inbox.message x"
					   OF_MINE " AND x.status OPERATOR(pg_catalog.<>) 'processed'"
					   " AND (x.status OPERATOR(pg_catalog.=) 'failed'"
					   " OR x.attempts OPERATOR(pg_catalog.>) 0)"
					   " ORDER BY x.subscription, x.error_at");
}
