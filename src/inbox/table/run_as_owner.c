/*-------------------------------------------------------------------------
 *
 * run_as_owner.c
 *	  Statements on the tables of the inbox, run as their owner.
 *
 * Whoever may call the functions of the inbox has no rights on its tables.
 * The functions check what the caller asks for as the caller, and store it as
 * the owner of the tables, in fixed statements under a fixed search_path.
 * SECURITY DEFINER would hide who the caller is.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/table/run_as_owner.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "inbox/table/ring.h"

/* Who owns the tables. */
static Oid
table_owner(void)
{
	Oid			table = get_relname_relid("subscription",
										  get_namespace_oid(INBOX_SCHEMA, false));
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.subscription\" does not exist", INBOX_SCHEMA),
				 errdetail("Extension outbox made it, and it was renamed or dropped since."),
				 errhint("Undo that, or drop the extension and create it again.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Raises an error where nothing can be written. */
static void
check_writable(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot change subscriptions during recovery"),
				 errdetail("This server is a standby."),
				 errhint("Do it on the primary server.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot change subscriptions in a read-only transaction"),
				 errhint("Start the transaction with READ WRITE; see also default_transaction_read_only.")));
}

/*
 * Becomes the owner of the tables, and connects to SPI, to read.  An error that
 * ends the (sub)transaction undoes it as well.
 */
void
owner_sql_begin_reading(SqlCaller *caller)
{
	GetUserIdAndSecContext(&caller->role, &caller->security_context);
	SetUserIdAndSecContext(table_owner(),
						   caller->security_context | SECURITY_LOCAL_USERID_CHANGE);
	caller->nest_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

/*
 * The same, to write.  Raises an error in a transaction that cannot.
 */
void
owner_sql_begin(SqlCaller *caller)
{
	check_writable();
	owner_sql_begin_reading(caller);
}

/*
 * Has statements look rows up by an index where there is one, until owner_sql_end(), or
 * the end of another nest level that was begun.  A table may have far more rows than
 * its statistics tell, which are of an earlier time, or missing.
 */
void
owner_sql_insist_on_indexes(void)
{
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Ends what one of them began. */
void
owner_sql_end(const SqlCaller *caller)
{
	SPI_finish();
	AtEOXact_GUC(false, caller->nest_level);
	SetUserIdAndSecContext(caller->role, caller->security_context);
}

/*
 * Runs a statement with parameters, of which nulls (or NULL, when there are
 * none) says which are null.  Returns the number of rows.  Between owner_sql_begin()
 * and owner_sql_end() only.
 */
uint64
owner_sql_execute(const char *statement, int nargs, const Oid *types,
				  const Datum *values, const bool *nulls)
{
	char		null_flags[FUNC_MAX_ARGS] = {0};

	for (int i = 0; i < nargs; i++)
		null_flags[i] = nulls && nulls[i] ? 'n' : ' ';
	if (SPI_execute_with_args(statement, nargs, (Oid *) types,
							  (Datum *) values, null_flags, false, 0) < 0)
		elog(ERROR, "statement failed: %s", statement);
	return SPI_processed;
}
