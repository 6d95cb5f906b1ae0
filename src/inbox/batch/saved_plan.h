/*-------------------------------------------------------------------------
 *
 * saved_plan.h
 *	  Statements of a worker that are planned once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SAVED_PLAN_H
#define OUTBOX_SAVED_PLAN_H

#include "postgres.h"

#include "executor/spi.h"

extern void saved_plan_execute(SPIPlanPtr *plan, const char *query, int nargs,
							   Oid *types, Datum *args, const char *nulls);
extern Datum saved_plan_text_array(Datum *values, int n);

#endif							/* OUTBOX_SAVED_PLAN_H */
