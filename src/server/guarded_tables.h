/*-------------------------------------------------------------------------
 *
 * guarded_tables.h
 *	  Tables on which some commands are not allowed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GUARDED_TABLES_H
#define OUTBOX_GUARDED_TABLES_H

#include "postgres.h"

#include "nodes/parsenodes.h"

/* Tables of one schema, and what is said about a command that is refused. */
typedef struct GuardedTables
{
	const char *schema;
	const char *const *names;
	int			nnames;
	const char *detail;
	const char *hint;
} GuardedTables;

extern bool guarded_tables_contain(const GuardedTables *tables,
								   const RangeVar *name);
extern void guarded_tables_refuse(const GuardedTables *tables,
								  const RangeVar *name, const char *action);
extern void guarded_tables_check_create(const GuardedTables *tables,
										const CreateStmt *stmt);

#endif							/* OUTBOX_GUARDED_TABLES_H */
