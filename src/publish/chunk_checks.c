/*-------------------------------------------------------------------------
 *
 * chunk_checks.c
 *	  What the owner of outbox.event may have added to a chunk.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/chunk_checks.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "nodes/primnodes.h"
#include "utils/rel.h"

#include "core/compat.h"
#include "event/event_check.h"

/*
 * Is a CHECK constraint ours: check_event() of columns, and nothing else?
 * There is nothing in that which planning would evaluate or look up by name.
 */
bool
chunk_is_our_check(const Expr *check)
{
	const		FuncExpr *call = (const FuncExpr *) check;
	FmgrInfo	function;
	ListCell   *lc;

	if (!IsA(check, FuncExpr))
		return false;
	foreach(lc, call->args)
		if (!IsA(lfirst(lc), Var))
		return false;
	fmgr_info(call->funcid, &function);
	return function.fn_addr == outbox_check_event;
}

/*
 * Does a chunk have triggers or CHECK constraints that the extension did not
 * make and the insertion of a row has to heed?  Triggers for each statement do
 * not fire: there is no statement.
 */
bool
chunk_has_extras(Relation chunk)
{
	TupleConstr *constr = RelationGetDescr(chunk)->constr;
	TriggerDesc *triggers = chunk->trigdesc;

	for (int i = 0; constr && i < constr->num_check; i++)
		if (!chunk_is_our_check(compat_check_node(&constr->check[i], chunk)))
			return true;
	return triggers && (triggers->trig_insert_before_row ||
						triggers->trig_insert_after_row);
}
