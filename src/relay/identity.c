/*-------------------------------------------------------------------------
 *
 * identity.c
 *	  Is this database itself, or a copy of another one?
 *
 * outbox.identity has one row for this database, made by its first relay.  A
 * dump, a template or a file copy brings along the row of the original, which
 * gives the copy away.  A copy publishes nothing, since its Kafka settings may
 * point to where the original publishes, until outbox.resume() decides.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/identity.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/worker.h"

/* Makes the row of this database. */
static void
introduce_ourselves(void)
{
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {Int64GetDatum((int64) GetSystemIdentifier())};

	if (SPI_execute_with_args("INSERT INTO outbox.identity"
							  " SELECT outbox.home(), $1, d.oid, d.datname, false"
							  " FROM pg_catalog.pg_database d"
							  " WHERE d.datname = pg_catalog.current_database()"
							  " ON CONFLICT DO NOTHING",
							  1, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store the identity of the database");
}

static bool
is_true(const char *query)
{
	bool		isnull;

	if (SPI_execute(query, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "query failed: %s", query);
	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									  SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Finds out what this database is; its own row is made when it is missing.
 * Runs a transaction of its own.
 */
Identity
identity_check(void)
{
	Identity	identity = IDENTITY_SETTLED;

	worker_begin_sql();
	if (!is_true("SELECT EXISTS (SELECT FROM outbox.identity"
				 " WHERE home = outbox.home())"))
		introduce_ourselves();
	if (is_true("SELECT EXISTS (SELECT FROM outbox.identity"
				" WHERE home <> outbox.home() AND NOT adopted)"))
		identity = IDENTITY_COPIED;
	else if (is_true("SELECT EXISTS (SELECT FROM outbox.identity"
					 " WHERE home <> outbox.home())"))
		identity = IDENTITY_ADOPTED;
	worker_commit_sql();
	return identity;
}

/*
 * All pending events of adopted databases are on Kafka: from now on they count
 * as published, and the originals are forgotten.  Needs SPI.
 */
void
identity_settle(void)
{
	if (SPI_execute("INSERT INTO outbox.watermark (home, lsn, snapshot)"
					" SELECT home, '0/0', '9223372036854775807:9223372036854775807:'"
					" FROM outbox.identity WHERE home <> outbox.home() AND adopted",
					false, 0) != SPI_OK_INSERT ||
		SPI_execute("DELETE FROM outbox.identity"
					" WHERE home <> outbox.home() AND adopted",
					false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not settle adopted databases");
}
