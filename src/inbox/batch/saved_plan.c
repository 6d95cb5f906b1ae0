/*-------------------------------------------------------------------------
 *
 * saved_plan.c
 *	  Statements of a worker that are planned once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/saved_plan.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/guc.h"

#include "inbox/table/run_as_owner.h"

/*
 * Runs a statement whose plan is made once in the life of the process: perhaps while
 * there are few rows, and any way to find them is cheap.
 */
void
saved_plan_execute(SPIPlanPtr *plan, const char *query, int nargs, Oid *types,
				   Datum *args, const char *nulls)
{
	int			nest_level = NewGUCNestLevel();

	owner_sql_insist_on_indexes();
	if (*plan == NULL)
	{
		*plan = SPI_prepare(query, nargs, types);
		if (*plan == NULL || SPI_keepplan(*plan) != 0)
			elog(ERROR, "could not prepare: %s", query);
	}
	if (SPI_execute_plan(*plan, args, nulls, false, 0) < 0)
		elog(ERROR, "query failed: %s", query);
	AtEOXact_GUC(true, nest_level);
}

/*
 * An array of texts.
 */
Datum
saved_plan_text_array(Datum *values, int n)
{
	return PointerGetDatum(construct_array(values, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}
