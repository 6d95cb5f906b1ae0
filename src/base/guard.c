/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Commands that would hide events from the relay.
 *
 * The relay finds outbox.event by its name, and the chunks as its partitions;
 * it sees what is in the WAL as changes of a heap.  A transaction counts as
 * published whether or not the relay has seen its rows.  So its owner may add
 * to the table what he likes, but what would make rows invisible is refused,
 * as it is for system tables.
 *
 *-------------------------------------------------------------------------
 */
#include "base/guard.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"

#include "base/worker.h"

#define GUARDED_SCHEMA "outbox"
#define GUARDED_TABLE "event"

/* Is it outbox.event or a chunk of it? */
static bool
is_guarded(const RangeVar * name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);

	if (OidIsValid(relid) && get_rel_relispartition(relid))
		relid = get_partition_parent(relid, true);
	return OidIsValid(relid) &&
		get_rel_namespace(relid) == get_namespace_oid(GUARDED_SCHEMA, true) &&
		strcmp(get_rel_name(relid), GUARDED_TABLE) == 0;
}

/* Raises the error for a command that is not allowed. */
static void
refuse(const RangeVar * name, const char *action)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot %s \"%s.%s\"", action, GUARDED_SCHEMA,
					name->relname),
			 errdetail("Extension outbox would not find all events of the table %s.%s any more.",
					   GUARDED_SCHEMA, GUARDED_TABLE),
			 errhint("To remove events that are on Kafka, use DELETE or TRUNCATE.")));
}

static void
check_alter_table(const AlterTableStmt * stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		switch (lfirst_node(AlterTableCmd, lc)->subtype)
		{
			case AT_AttachPartition:
			case AT_DetachPartition:
			case AT_DetachPartitionFinalize:
				refuse(stmt->relation, "attach or detach partitions of");
				break;
			case AT_SetUnLogged:
				refuse(stmt->relation, "stop the logging of");
				break;
			case AT_SetAccessMethod:
				refuse(stmt->relation, "change the access method of");
				break;
			default:
				break;
		}
	}
}

/* A table that is about to be created must not be a partition of ours. */
static void
check_create(const CreateStmt * stmt)
{
	ListCell   *lc;

	if (stmt->partbound == NULL)
		return;
	foreach(lc, stmt->inhRelations)
	{
		if (is_guarded(lfirst_node(RangeVar, lc)))
			refuse(lfirst_node(RangeVar, lc), "add partitions to");
	}
}

/*
 * Raises an error when a utility command must not be executed.  Needs a
 * transaction.
 */
void
guard_check(Node *stmt)
{
	if (!(IsA(stmt, AlterTableStmt) || IsA(stmt, RenameStmt) ||
		  IsA(stmt, AlterObjectSchemaStmt) || IsA(stmt, CreateStmt)) ||
		creating_extension || IsBinaryUpgrade || allowSystemTableMods ||
		!IsTransactionState() ||
		!OidIsValid(get_extension_oid(EXTENSION_NAME, true)))
		return;
	if (IsA(stmt, AlterTableStmt))
	{
		if (is_guarded(((AlterTableStmt *) stmt)->relation))
			check_alter_table((AlterTableStmt *) stmt);
	}
	else if (IsA(stmt, RenameStmt))
	{
		const RenameStmt *rename = (RenameStmt *) stmt;

		/* What has a name of its own in the table may be renamed. */
		if (rename->relation && rename->subname == NULL &&
			is_guarded(rename->relation))
			refuse(rename->relation, "rename");
	}
	else if (IsA(stmt, AlterObjectSchemaStmt))
	{
		const		AlterObjectSchemaStmt *move = (AlterObjectSchemaStmt *) stmt;

		if (move->relation && is_guarded(move->relation))
			refuse(move->relation, "move");
	}
	else
		check_create((CreateStmt *) stmt);
}
