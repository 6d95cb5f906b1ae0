/*-------------------------------------------------------------------------
 *
 * command_guard_inbox.c
 *	  Commands that would have no effect on what consumers write.
 *
 * Consumers write batches into the chunks of inbox.message and inbox.received,
 * past the executor and whatever is not an index (batch_table.c, dedup.c), and
 * know their columns.  Who adds a trigger for new rows there, a rule or a
 * constraint would rely on it in vain, and another column would stop all
 * subscriptions.  So that is refused.  Indexes, triggers for changes of rows
 * and whatever else works are the owner's business.
 *
 *-------------------------------------------------------------------------
 */

#include "server/command_guard_inbox.h"

#include "catalog/pg_trigger.h"
#include "nodes/parsenodes.h"

#include "server/guarded_tables.h"

static const char *const guarded_names[] = {"message", "received"};

static const GuardedTables guarded = {
	.schema = "inbox",
	.names = guarded_names,
	.nnames = lengthof(guarded_names),
	.detail = "Workers of subscriptions write into the chunks of the table directly, and only as extension outbox made it.",
	.hint = "To act on messages, use a handler, or a trigger for UPDATE or DELETE; to watch for those that failed, inbox.stat_subscription."
};

/* Raises the error for a command that is not allowed, on tables of ours. */
static void
refuse(const RangeVar *name, const char *action)
{
	guarded_tables_refuse(&guarded, name, action);
}

static void
check_alter_table(const AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		switch (lfirst_node(AlterTableCmd, lc)->subtype)
		{
			case AT_AddConstraint:
			case AT_SetNotNull:
				refuse(stmt->relation, "add constraints to");
				break;
			case AT_AddColumn:
			case AT_DropColumn:
			case AT_AlterColumnType:
			case AT_AddIdentity:
				refuse(stmt->relation, "change columns of");
				break;
			case AT_AttachPartition:
			case AT_DetachPartition:
			case AT_DetachPartitionFinalize:
				refuse(stmt->relation, "attach or detach partitions of");
				break;
			case AT_SetUnLogged:
				refuse(stmt->relation, "stop the logging of");
				break;
			default:
				break;
		}
	}
}

/* What has a name of its own in the table may be renamed. */
static void
check_rename(const RenameStmt *stmt)
{
	if (stmt->relation == NULL)
		return;
	if (stmt->renameType == OBJECT_COLUMN)
		refuse(stmt->relation, "change columns of");
	else if (stmt->subname == NULL)
		refuse(stmt->relation, "rename");
}

/*
 * Raises an error when a utility command must not be executed.  Needs a
 * transaction.
 */
void
command_guard_check_inbox(const Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_AlterTableStmt:
			check_alter_table((const AlterTableStmt *) stmt);
			break;
		case T_RenameStmt:
			check_rename((const RenameStmt *) stmt);
			break;
		case T_AlterObjectSchemaStmt:
			if (((const AlterObjectSchemaStmt *) stmt)->relation)
				refuse(((const AlterObjectSchemaStmt *) stmt)->relation, "move");
			break;
		case T_CreateStmt:
			guarded_tables_check_create(&guarded, (const CreateStmt *) stmt);
			break;
		case T_CreateTrigStmt:
			if (TRIGGER_FOR_INSERT(((const CreateTrigStmt *) stmt)->events))
				refuse(((const CreateTrigStmt *) stmt)->relation,
					   "add triggers for INSERT to");
			break;
		case T_RuleStmt:
			refuse(((const RuleStmt *) stmt)->relation, "add rules to");
			break;
		case T_IndexStmt:
			if (((const IndexStmt *) stmt)->unique)
				refuse(((const IndexStmt *) stmt)->relation,
					   "add constraints to");
			break;
		default:
			break;
	}
}
