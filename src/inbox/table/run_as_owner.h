/*-------------------------------------------------------------------------
 *
 * run_as_owner.h
 *	  Statements on the tables of the inbox, run as their owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RUN_AS_OWNER_H
#define OUTBOX_RUN_AS_OWNER_H

#include "postgres.h"

typedef struct SqlCaller
{
	Oid			role;
	int			security_context;
	int			nest_level;
} SqlCaller;

extern void owner_sql_begin(SqlCaller *caller);
extern void owner_sql_begin_reading(SqlCaller *caller);
extern void owner_sql_insist_on_indexes(void);
extern void owner_sql_end(const SqlCaller *caller);
extern uint64 owner_sql_execute(const char *statement, int nargs, const Oid *types,
								const Datum *values, const bool *nulls);

#endif							/* OUTBOX_RUN_AS_OWNER_H */
