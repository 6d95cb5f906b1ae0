/*-------------------------------------------------------------------------
 *
 * hooks.c
 *	  What SQL commands mean for launcher and relays.
 *
 * Two hooks:
 *
 * - Object access: CREATE and DROP EXTENSION, in whatever way they come about
 *	 (DROP SCHEMA ... CASCADE drops it too), start and end a relay; changes of
 *	 foreign servers and user mappings make the relay read its settings again.
 *	 All of it takes effect when the transaction commits.
 *
 * - Utility commands: some commands on a database need it to be empty of
 *	 sessions and of active slots.  Its relay leaves before such a command
 *	 and comes back after it, whether it succeeded or not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/hooks.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/shmem.h"

static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* What this transaction changed; acted upon when it commits. */
static bool extension_changed = false;
static bool configuration_changed = false;

static void
forget_changes(void)
{
	extension_changed = false;
	configuration_changed = false;
}

static void
changes_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (extension_changed && !shmem_request_relay(MyDatabaseId))
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("no room for a relay in this database"),
						 errhint("Raise outbox.max_databases and restart the server.")));
			if (configuration_changed)
				shmem_configuration_changed(MyDatabaseId);
			forget_changes();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			forget_changes();
			break;
		default:
			break;
	}
}

static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access != OAT_POST_CREATE && access != OAT_POST_ALTER &&
		access != OAT_DROP)
		return;
	if (classId == ExtensionRelationId)
		extension_changed = true;
	else if (classId == ForeignServerRelationId ||
			 classId == UserMappingRelationId)
		configuration_changed = true;
}

/*
 * The database that CREATE DATABASE copies, when the caller may copy it.
 */
static Oid
template_of(CreatedbStmt *stmt)
{
	const char *name = "template1";
	HeapTuple	tuple;
	Oid			database;
	bool		allowed;
	ListCell   *lc;

	foreach(lc, stmt->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "template") == 0 && option->arg)
			name = defGetString(option);
	}
	database = get_database_oid(name, true);
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	allowed = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate ||
		compat_owns_database(database);
	ReleaseSysCache(tuple);
	return allowed && (superuser() || have_createdb_privilege()) ?
		database : InvalidOid;
}

/* A database by name, when the caller owns it. */
static Oid
owned_database(const char *name)
{
	Oid			database = get_database_oid(name, true);

	return OidIsValid(database) && compat_owns_database(database) ?
		database : InvalidOid;
}

/*
 * The database that a command needs to be empty, or InvalidOid.  A caller
 * who lacks the rights disturbs nobody: the command itself will refuse him.
 */
static Oid
database_to_empty(Node *stmt)
{
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return owned_database(((DropdbStmt *) stmt)->dbname);
		case T_CreatedbStmt:
			return template_of((CreatedbStmt *) stmt);
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return owned_database(((RenameStmt *) stmt)->subname);
			break;
		case T_AlterDatabaseStmt:
			foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
				if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
				return owned_database(((AlterDatabaseStmt *) stmt)->dbname);
			break;
		default:
			break;
	}
	return InvalidOid;
}

/*
 * The database that may hold the extension from now on: a copy, or one that
 * takes connections again.  Its relay finds out.
 */
static Oid
database_to_look_at(Node *stmt)
{
	if (IsA(stmt, CreatedbStmt))
		return get_database_oid(((CreatedbStmt *) stmt)->dbname, true);
	if (IsA(stmt, AlterDatabaseStmt))
		return get_database_oid(((AlterDatabaseStmt *) stmt)->dbname, true);
	return InvalidOid;
}

static void
release_on_exit(int code, Datum database)
{
	shmem_release_database(DatumGetObjectId(database));
}

static void
call_next_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			   ProcessUtilityContext context, ParamListInfo params,
			   QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_process_utility_hook)
		prev_process_utility_hook(pstmt, query, read_only_tree, context,
								  params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context,
								params, env, dest, qc);
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	Oid			held = InvalidOid;

	if (context == PROCESS_UTILITY_TOPLEVEL && IsTransactionState())
		held = database_to_empty(stmt);

	if (OidIsValid(held) && shmem_hold_database(held))
	{
		PG_ENSURE_ERROR_CLEANUP(release_on_exit, ObjectIdGetDatum(held));
		call_next_hook(pstmt, query, read_only_tree, context, params, env,
					   dest, qc);
		PG_END_ENSURE_ERROR_CLEANUP(release_on_exit, ObjectIdGetDatum(held));
		shmem_release_database(held);
		if (IsA(stmt, DropdbStmt))
			shmem_forget_database(held);
	}
	else
		call_next_hook(pstmt, query, read_only_tree, context, params, env,
					   dest, qc);

	if (IsA(stmt, CreatedbStmt) || IsA(stmt, AlterDatabaseStmt))
	{
		Oid			database = database_to_look_at(stmt);

		if (OidIsValid(database))
			shmem_request_relay(database);
	}
	else if (IsA(stmt, TransactionStmt) &&
			 ((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED)
		shmem_wake_relay(MyDatabaseId);
}

/*
 * Installs the hooks.  Call once, from _PG_init in the postmaster.
 */
void
hooks_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	RegisterXactCallback(changes_xact_callback, NULL);
}
