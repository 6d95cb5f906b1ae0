/*-------------------------------------------------------------------------
 *
 * identity_table.c
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

#include "relay/table/identity_table.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "core/background_worker.h"

/* Makes the row of this database. */
static void
introduce_ourselves(void)
{
	Oid			types[1] = {INT8OID};
	Datum		args[1] = {Int64GetDatum((int64) GetSystemIdentifier())};

	if (SPI_execute_with_args("INSERT INTO outbox.identity"
							  " SELECT outbox.database_id(), $1, d.oid, d.datname, false"
							  " FROM pg_catalog.pg_database d"
							  " WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"
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
				 " WHERE database_id OPERATOR(pg_catalog.=) outbox.database_id())"))
		introduce_ourselves();
	if (is_true("SELECT EXISTS (SELECT FROM outbox.identity"
				" WHERE database_id OPERATOR(pg_catalog.<>) outbox.database_id() AND NOT adopted)"))
		identity = IDENTITY_COPIED;
	else if (is_true("SELECT EXISTS (SELECT FROM outbox.identity"
					 " WHERE database_id OPERATOR(pg_catalog.<>) outbox.database_id())"))
		identity = IDENTITY_ADOPTED;
	worker_commit_sql();
	return identity;
}

/*
 * Finds an adopted database whose pending events are still to be published,
 * the one that stopped first.  Returns false when there is none.  Runs a
 * transaction of its own.
 */
bool
identity_next_adopted(int32 *database_id)
{
	bool		isnull;
	bool		found;

	worker_begin_sql();
	if (SPI_execute("SELECT i.database_id FROM outbox.identity i"
					" WHERE i.adopted AND i.database_id OPERATOR(pg_catalog.<>) outbox.database_id()"
					" ORDER BY (SELECT pg_catalog.max(w.taken_at) FROM outbox.watermark w"
					"           WHERE w.database_id OPERATOR(pg_catalog.=) i.database_id) NULLS FIRST, i.database_id"
					" LIMIT 1", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox.identity");
	found = SPI_processed > 0;
	if (found)
		*database_id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
												   SPI_tuptable->tupdesc, 1, &isnull));
	worker_commit_sql();
	return found;
}

/*
 * An adopted database is done with.  Needs SPI.
 */
void
identity_forget(int32 database_id)
{
	Oid			types[1] = {INT4OID};
	Datum		args[1] = {Int32GetDatum(database_id)};

	if (SPI_execute_with_args("DELETE FROM outbox.identity"
							  " WHERE database_id OPERATOR(pg_catalog.=) $1",
							  1, types, args, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not forget an adopted database");
}
