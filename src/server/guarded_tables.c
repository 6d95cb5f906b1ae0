/*-------------------------------------------------------------------------
 *
 * guarded_tables.c
 *	  Tables on which some commands are not allowed, and the error for those.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "server/guarded_tables.h"

#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "utils/lsyscache.h"

/*
 * Is it one of the tables, or a chunk of one?
 */
bool
guarded_tables_contain(const GuardedTables *tables, const RangeVar *name)
{
	Oid			relid = RangeVarGetRelid(name, NoLock, true);
	const char *table;

	if (OidIsValid(relid) && get_rel_relispartition(relid))
		relid = get_partition_parent(relid, true);
	if (!OidIsValid(relid) ||
		get_rel_namespace(relid) != get_namespace_oid(tables->schema, true))
		return false;
	table = get_rel_name(relid);
	for (int i = 0; i < tables->nnames; i++)
		if (strcmp(table, tables->names[i]) == 0)
			return true;
	return false;
}

/*
 * Raises the error for a command that is not allowed on the tables, if the name
 * is that of one.
 */
void
guarded_tables_refuse(const GuardedTables *tables, const RangeVar *name,
					  const char *action)
{
	if (!guarded_tables_contain(tables, name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot %s \"%s.%s\"", action, tables->schema, name->relname),
			 errdetail_internal("%s", tables->detail),
			 errhint("%s", tables->hint)));
}

/*
 * A table that is about to be created must not be a partition of one.
 */
void
guarded_tables_check_create(const GuardedTables *tables, const CreateStmt *stmt)
{
	ListCell   *lc;

	if (stmt->partbound == NULL)
		return;
	foreach(lc, stmt->inhRelations)
		guarded_tables_refuse(tables, lfirst_node(RangeVar, lc), "add partitions to");
}
