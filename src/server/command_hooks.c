/*-------------------------------------------------------------------------
 *
 * command_hooks.c
 *	  What SQL commands mean for launcher and relays.
 *
 * Two hooks:
 *
 * - Object access: CREATE and DROP EXTENSION, in whatever way they come about
 *	 (DROP SCHEMA ... CASCADE drops it too), start and end a relay; changes of
 *	 foreign servers and user mappings make the relay read its settings again.
 *	 All of it takes effect when the transaction commits.  The replication slot
 *	 goes with the extension, just before the commit: in a server that was
 *	 started without the library no relay would drop it, nor in a template
 *	 database.  There an event trigger has this hook installed in the session.
 *
 * - Utility commands: some commands on a database need it to be empty of
 *	 sessions and of active slots, and DROP EXTENSION needs locks that a relay
 *	 may hold for as long as Kafka is away.  The relay leaves before such a
 *	 command and comes back when its transaction ends, one way or the other.
 *	 After a move to another tablespace it begins with a new slot.  And some
 *	 are refused: see command_guard.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "server/command_hooks.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_user_mapping.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "core/background_worker.h"
#include "core/compat.h"
#include "core/replication_slot.h"
#include "publish/publisher_session.h"
#include "registry/databases.h"
#include "registry/layout.h"
#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "server/command_guard.h"

PG_FUNCTION_INFO_V1(outbox_watch_extension);
PG_FUNCTION_INFO_V1(outbox_wake_relay);
PG_FUNCTION_INFO_V1(outbox_wake_consumers);

static bool watching = false;	/* the first hook is installed */
static object_access_hook_type prev_object_access_hook = NULL;
static ProcessUtility_hook_type prev_process_utility_hook = NULL;

/* What this transaction changed; acted upon when it commits. */
static bool extension_changed = false;
static bool configuration_changed = false;
static bool subscriptions_changed = false;
static List *changed_databases = NIL;

/*
 * Databases that are held until this transaction ends; or the next one, while
 * a command runs that commits halfway.
 */
static List *held_databases = NIL;
static bool commits_halfway = false;

/* Adds to a list, which outlives the transaction. */
static List *
remember_database(List *list, Oid database)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	list = list_append_unique_oid(list, database);
	MemoryContextSwitchTo(old);
	return list;
}

/*
 * Makes launcher and relays look at what this transaction changed.
 */
static void
announce_changes(void)
{
	ListCell   *lc;

	foreach(lc, changed_databases)
		(void) shmem_request_relay(lfirst_oid(lc));
	if (extension_changed && !shmem_request_relay(MyDatabaseId))
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no room for a relay in this database"),
				 errhint("Raise outbox.max_databases and restart the server.")));
	if (configuration_changed)
		shmem_configuration_changed(MyDatabaseId);
	if (subscriptions_changed)
		shmem_subscriptions_changed(MyDatabaseId);
}

/*
 * COMMIT PREPARED may have done what only the transaction that prepared it
 * knew, and may have published.
 */
static void
announce_prepared_changes(void)
{
	session_committed_prepared();
	if (!shmem_prepared_changes())
		return;
	(void) shmem_request_relay(MyDatabaseId);
	shmem_configuration_changed(MyDatabaseId);
	shmem_subscriptions_changed(MyDatabaseId);
}

static void
release_databases(void)
{
	ListCell   *lc;

	foreach(lc, held_databases)
		shmem_release_database(lfirst_oid(lc));
	list_free(held_databases);
	held_databases = NIL;
	commits_halfway = false;
}

/*
 * If the extension is dropped, drops the slot as well, provided that no relay
 * has it: one that was not made to leave does so when it finds the extension
 * gone.  Raises an error when somebody else reads from the slot.
 */
static void
drop_slot_with_extension(void)
{
	RelayStatus status;
	pid_t		relay;

	if (!extension_changed ||
		OidIsValid(get_extension_oid(EXTENSION_NAME, true)))
		return;
	if (registry != NULL &&
		shmem_read_status(MyDatabaseId, &status, &relay) && relay != 0)
		return;
	slot_forget(MyDatabaseId);
}

static void
changes_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			drop_slot_with_extension();
			return;
		case XACT_EVENT_PRE_PREPARE:
			/* Else the relay does it when it is committed. */
			if (registry == NULL)
				drop_slot_with_extension();
			return;
		case XACT_EVENT_COMMIT:
			announce_changes();
			break;
		case XACT_EVENT_PREPARE:
			if (registry != NULL && (extension_changed ||
									 configuration_changed ||
									 subscriptions_changed))
				shmem_set_prepared_changes();
			break;
		case XACT_EVENT_ABORT:
			break;
		default:
			return;
	}
	if (event != XACT_EVENT_COMMIT || !commits_halfway)
		release_databases();
	list_free(changed_databases);
	changed_databases = NIL;
	extension_changed = false;
	configuration_changed = false;
	subscriptions_changed = false;
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
	else if (classId == DatabaseRelationId && access != OAT_DROP)
		changed_databases = remember_database(changed_databases, objectId);
}

/*
 * May the caller create databases?  PostgreSQL's own function for it is not
 * exported by every minor release.
 */
static bool
may_create_databases(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID,
										ObjectIdGetDatum(GetUserId()));
	bool		allowed = superuser();

	if (HeapTupleIsValid(tuple))
	{
		allowed |= ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return allowed;
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
	return allowed && may_create_databases() ? database : InvalidOid;
}

/* A database by name, when the caller owns it. */
static Oid
owned_database(const char *name)
{
	Oid			database = get_database_oid(name, true);

	return OidIsValid(database) && compat_owns_database(database) ?
		database : InvalidOid;
}

/* Is it ALTER DATABASE ... SET TABLESPACE? */
static bool
moves_database(Node *stmt)
{
	ListCell   *lc;

	if (!IsA(stmt, AlterDatabaseStmt))
		return false;
	foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
		return true;
	return false;
}

/* Does a DROP command name the extension, or the schema that holds it? */
static bool
drops_extension(DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_EXTENSION &&
		stmt->removeType != OBJECT_SCHEMA)
		return false;
	foreach(lc, stmt->objects)
		if (strcmp(strVal(lfirst(lc)), EXTENSION_NAME) == 0)
		return true;
	return false;
}

/*
 * This database, when the caller may drop the extension in it: owns it, or the
 * schema that it is in.
 */
static Oid
owned_extension_database(void)
{
	Oid			extension = get_extension_oid(EXTENSION_NAME, true);
	Oid			schema = get_namespace_oid(EXTENSION_NAME, true);

	return OidIsValid(extension) &&
		(compat_owns_extension(extension) ||
		 (OidIsValid(schema) && compat_owns_schema(schema))) ?
		MyDatabaseId : InvalidOid;
}

/*
 * The database whose relay a command needs to be away, or InvalidOid.  A
 * caller who lacks the rights disturbs nobody: the command itself will refuse
 * him.
 */
static Oid
database_to_hold(Node *stmt, bool toplevel)
{
	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			return toplevel ? owned_database(((DropdbStmt *) stmt)->dbname) :
				InvalidOid;
		case T_CreatedbStmt:
			return toplevel ? template_of((CreatedbStmt *) stmt) : InvalidOid;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				return owned_database(((RenameStmt *) stmt)->subname);
			break;
		case T_AlterDatabaseStmt:
			if (moves_database(stmt))
				return toplevel ? owned_database(((AlterDatabaseStmt *) stmt)->dbname) :
					InvalidOid;
			break;
		case T_DropStmt:
			if (drops_extension((DropStmt *) stmt))
				return owned_extension_database();
			break;
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) stmt)->extname, EXTENSION_NAME) == 0)
				return owned_extension_database();
			break;
		case T_DropOwnedStmt:
			return owned_extension_database();
		default:
			break;
	}
	return InvalidOid;
}

/*
 * Makes the relay leave a database until this transaction ends.
 */
static void
hold_database(Oid database)
{
	if (list_member_oid(held_databases, database))
		return;
	held_databases = remember_database(held_databases, database);
	if (shmem_hold_database(database))
		shmem_wait_for_leave(database);
	else
		held_databases = list_delete_oid(held_databases, database);
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
	bool		moves = moves_database(stmt);
	bool		commits_prepared = IsA(stmt, TransactionStmt) &&
	((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED;
	Oid			database = InvalidOid;

	command_guard_check(stmt);
	if (IsTransactionState())
		database = database_to_hold(stmt, context == PROCESS_UTILITY_TOPLEVEL);
	if (OidIsValid(database))
		hold_database(database);

	/* From here on the statement may be gone: it may end the transaction. */
	commits_halfway = moves;
	call_next_hook(pstmt, query, read_only_tree, context, params, env, dest,
				   qc);
	commits_halfway = false;

	/* WAL from before cannot be decoded: it names files by tablespace. */
	if (OidIsValid(database) && moves)
		slot_forget(database);
	if (commits_prepared)
		announce_prepared_changes();
}

/*
 * SQL function outbox.wake_relay() RETURNS trigger: when the
 * transaction commits, the relay looks at settings and identity again, and
 * for what it was asked to send.  It knows what it wrote itself.
 */
Datum
outbox_wake_relay(PG_FUNCTION_ARGS)
{
	if (!shmem_is_relay())
		configuration_changed = true;
	PG_RETURN_POINTER(NULL);
}

/*
 * SQL function inbox.wake_consumers() RETURNS trigger: when the transaction
 * commits, launcher and consumers look at inbox.subscription again.
 */
Datum
outbox_wake_consumers(PG_FUNCTION_ARGS)
{
	subscriptions_changed = true;
	PG_RETURN_POINTER(NULL);
}

/* Installs what tells changes of the extension, unless it is there. */
static void
watch(void)
{
	if (watching)
		return;
	watching = true;
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	RegisterXactCallback(changes_xact_callback, NULL);
}

/*
 * SQL function outbox.watch_extension() RETURNS void: has the slot go with the
 * extension, should this session drop it, also in a server that was started
 * without the library.
 */
Datum
outbox_watch_extension(PG_FUNCTION_ARGS)
{
	watch();
	PG_RETURN_VOID();
}

/*
 * Installs the hooks.  Call once, from _PG_init in the postmaster.
 */
void
hooks_init(void)
{
	watch();
	prev_process_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
