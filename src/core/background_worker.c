/*-------------------------------------------------------------------------
 *
 * background_worker.c
 *	  What every background worker of ours shares: signals, reload, and the
 *	  question whether the extension is here.
 *
 *-------------------------------------------------------------------------
 */
#include "core/background_worker.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/pidfile.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define LOCK_FILE "postmaster.pid"

/*
 * Begins a transaction.  Nobody sends statements, whose time would be that of
 * the transaction: so now() is told that it is later.
 */
void
worker_begin(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/*
 * Begins a transaction that reads catalogs because somebody has told us of a
 * change.  Who commits tells us before the server tells our caches.
 */
void
worker_begin_afresh(void)
{
	worker_begin();
	InvalidateSystemCaches();
}

/*
 * Does the database that we are connected to hold the extension?  Runs a
 * transaction of its own.
 */
bool
worker_extension_exists(void)
{
	bool		exists;

	worker_begin_afresh();
	exists = OidIsValid(get_extension_oid(EXTENSION_NAME, true));
	CommitTransactionCommand();
	return exists;
}

/*
 * The extension is of another version than this library: after one of them was
 * upgraded, and not the other.  Returns what is to be done, or NULL when they
 * go together.  The extension must exist.  Runs a transaction of its own.
 */
const char *
worker_version_conflict(void)
{
	static char message[256];
	char	   *version = NULL;

	worker_begin_sql();
	if (worker_run_sql("SELECT extversion FROM pg_catalog.pg_extension"
					   " WHERE extname OPERATOR(pg_catalog.=) '" EXTENSION_NAME "'",
					   0, NULL, NULL, SPI_OK_SELECT))
		version = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	message[0] = '\0';
	if (version && strcmp(version, OUTBOX_VERSION) != 0)
		snprintf(message, sizeof(message),
				 "the extension in this database is of version %s and the library of the running server of version %s; ALTER EXTENSION outbox UPDATE, or restart the server if it has an older library than is installed",
				 version, OUTBOX_VERSION);
	worker_commit_sql();
	return message[0] ? message : NULL;
}

/*
 * Begins a transaction for SPI.
 */
void
worker_begin_sql(void)
{
	worker_begin();
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Runs a statement that ends with that code of SPI's, or raises an error.
 * Returns whether it was about any rows.  Needs SPI.
 */
bool
worker_run_sql(const char *query, int nargs, Oid *types, Datum *args,
			   int expected)
{
	if (SPI_execute_with_args(query, nargs, types, args, NULL, false, 0) != expected)
		elog(ERROR, "query failed: %s", query);
	return SPI_processed > 0;
}

/*
 * Runs a statement and undoes it: raises the error that it would raise.  Needs
 * SPI.
 */
void
worker_prove_sql(const char *query, int nargs, Oid *types, Datum *args)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	if (SPI_execute_with_args(query, nargs, types, args, NULL, false, 0) < 0)
		elog(ERROR, "query failed: %s", query);
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

/*
 * Commits what worker_begin_sql() began.  Does not wait for the disk: what
 * workers write about themselves may be lost in a crash, and is then true of
 * an earlier time.  Statistics, by which autovacuum goes, are reported at most
 * once a second.
 */
void
worker_commit_sql(void)
{
	PopActiveSnapshot();
	SPI_finish();
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	CommitTransactionCommand();
	(void) pgstat_report_stat(false);
}

/*
 * The same, but what was written lasts when this returns.
 */
void
worker_commit_sql_durably(void)
{
	PopActiveSnapshot();
	SPI_finish();
	if (synchronous_commit == SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "local", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	CommitTransactionCommand();
	(void) pgstat_report_stat(false);
}

/*
 * Has the server been told to stop?  The postmaster notes that in its lock file
 * before it tells anybody.
 */
bool
worker_server_stops(void)
{
	FILE	   *file = AllocateFile(LOCK_FILE, "r");
	char		line[MAXPGPATH];
	bool		stops = false;

	if (file == NULL)
		return false;
	for (int i = 1; i <= LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof(line), file); i++)
		stops = i == LOCK_FILE_LINE_PM_STATUS &&
			strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	FreeFile(file);
	return stops;
}

/*
 * Begins to run SQL as the process ends, from wherever that happens, a decoding
 * callback included.  No standby keeps the process from ending then.
 */
void
worker_begin_sql_at_exit(void)
{
	LWLockReleaseAll();
	AbortOutOfAnyTransaction();
	if (HistoricSnapshotActive())
		TeardownHistoricSnapshot(true);
	InvalidateSystemCaches();
	(void) set_config_option("synchronous_commit", "local", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SET, true, 0, false);
	worker_begin_sql();
}

/*
 * Locks a table of ours for the current transaction, without waiting: a process
 * that ends must not wait for those who may wait for it.
 */
LockOutcome
worker_try_lock(const char *schema, const char *table, LOCKMODE mode)
{
	Oid			namespace = get_namespace_oid(schema, true);
	Oid			relation = InvalidOid;

	if (OidIsValid(namespace))
		relation = get_relname_relid(table, namespace);
	if (!OidIsValid(relation))
		return LOCK_NO_TABLE;
	if (!ConditionalLockRelationOid(relation, mode))
		return LOCK_BUSY;
	return SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relation)) ?
		LOCK_TAKEN : LOCK_NO_TABLE;
}
