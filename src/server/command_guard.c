/*-------------------------------------------------------------------------
 *
 * command_guard.c
 *	  Commands that would hide events from the relay, or let them go too early.
 *
 * The relay finds outbox.event by its name, and the chunks as its partitions;
 * it sees what is in the WAL as changes of a heap.  A transaction counts as
 * published whether or not the relay has seen its rows.  So its owner may add
 * to the table what he likes, but what would make rows invisible is refused,
 * as it is for system tables.  So is what would take away the triggers that keep
 * rows until they are on Kafka (event_row_guard.c).
 *
 *-------------------------------------------------------------------------
 */
#include "server/command_guard.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"

#include "core/background_worker.h"
#include "server/command_guard_inbox.h"
#include "server/guarded_tables.h"

static const char *const guarded_names[] = {"event"};

static const GuardedTables guarded = {
	.schema = "outbox",
	.names = guarded_names,
	.nnames = lengthof(guarded_names),
	.detail = "Extension outbox would not find all events of the table outbox.event any more.",
	.hint = "To remove events that are on Kafka, use DELETE or TRUNCATE."
};

/* The triggers of the table and of its chunks. */
#define ROW_TRIGGER "keep_rows"
#define CHUNK_TRIGGER "keep_chunk"

/* Raises the error for a command that is not allowed. */
static void
refuse(const RangeVar *name, const char *action)
{
	guarded_tables_refuse(&guarded, name, action);
}

/* Raises the error if a command would take away a trigger that keeps rows. */
static void
check_trigger(const RangeVar *table, const char *trigger, const char *action)
{
	if (strcmp(trigger, ROW_TRIGGER) == 0 || strcmp(trigger, CHUNK_TRIGGER) == 0)
		refuse(table, psprintf("%s the trigger \"%s\" of", action, trigger));
}

static void
check_alter_table(const AlterTableStmt *stmt)
{
	ListCell   *lc;

	if (!guarded_tables_contain(&guarded, stmt->relation))
		return;
	foreach(lc, stmt->cmds)
	{
		const		AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);

		switch (command->subtype)
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
			case AT_DisableTrig:
			case AT_EnableReplicaTrig:
				check_trigger(stmt->relation, command->name, "disable");
				break;
			case AT_DisableTrigAll:
			case AT_DisableTrigUser:
				refuse(stmt->relation, "disable the triggers of");
				break;
			default:
				break;
		}
	}
}

static void
check_move(const AlterObjectSchemaStmt *stmt)
{
	if (stmt->relation)
		refuse(stmt->relation, "move");
}

/* What has a name of its own in the table may be renamed, save our triggers. */
static void
check_rename(const RenameStmt *stmt)
{
	if (stmt->relation == NULL)
		return;
	if (stmt->renameType == OBJECT_TRIGGER)
		check_trigger(stmt->relation, stmt->subname, "rename");
	else if (stmt->subname == NULL)
		refuse(stmt->relation, "rename");
}

/* DROP TRIGGER names it behind its table. */
static void
check_drop(const DropStmt *stmt)
{
	ListCell   *lc;

	if (stmt->removeType != OBJECT_TRIGGER)
		return;
	foreach(lc, stmt->objects)
	{
		List	   *names = lfirst_node(List, lc);
		List	   *table = list_truncate(list_copy(names),
										  list_length(names) - 1);

		if (table != NIL)
			check_trigger(makeRangeVarFromNameList(table), strVal(llast(names)),
						  "drop");
	}
}

/* Is there anything to guard from this command's user? */
static bool
is_on_guard(void)
{
	return !creating_extension && !IsBinaryUpgrade && !allowSystemTableMods &&
		IsTransactionState() &&
		OidIsValid(get_extension_oid(EXTENSION_NAME, true));
}

/* Raises an error when a command on outbox.event must not be executed. */
static void
check(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_AlterTableStmt:
			check_alter_table((AlterTableStmt *) stmt);
			break;
		case T_RenameStmt:
			check_rename((RenameStmt *) stmt);
			break;
		case T_AlterObjectSchemaStmt:
			check_move((AlterObjectSchemaStmt *) stmt);
			break;
		case T_CreateStmt:
			guarded_tables_check_create(&guarded, (CreateStmt *) stmt);
			break;
		case T_CreateTrigStmt:
			check_trigger(((CreateTrigStmt *) stmt)->relation,
						  ((CreateTrigStmt *) stmt)->trigname, "replace");
			break;
		case T_DropStmt:
			check_drop((DropStmt *) stmt);
			break;
		default:
			break;
	}
}

/*
 * Raises an error when a utility command must not be executed.  Needs a
 * transaction.
 */
void
command_guard_check(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_AlterTableStmt:
		case T_RenameStmt:
		case T_AlterObjectSchemaStmt:
		case T_CreateStmt:
		case T_CreateTrigStmt:
		case T_DropStmt:
		case T_RuleStmt:
		case T_IndexStmt:
			if (!is_on_guard())
				return;
			check(stmt);
			command_guard_check_inbox(stmt);
			break;
		default:
			break;
	}
}
