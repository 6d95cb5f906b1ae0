/*-------------------------------------------------------------------------
 *
 * short_wait.c
 *	  Statements of a worker that wait for rows, but not for long.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/table/short_wait.h"

#include "utils/guc.h"

/* So long a transaction waits for a row, with all that it has locked. */
#define LONGEST_WAIT "50ms"

/*
 * Raises the error that a row is locked by somebody else, so that the transaction
 * begins anew.
 */
void
short_wait_raise(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("a row is being changed by somebody else")));
}

/*
 * Lets statements wait for rows not for long, as others may wait for what the
 * transaction has locked.  Returns what AtEOXact_GUC() needs to end that.
 */
int
short_wait_begin(void)
{
	int			nest_level = NewGUCNestLevel();

	(void) set_config_option("lock_timeout", LONGEST_WAIT, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nest_level;
}

/*
 * Such a statement has raised an error, which is being handled: raises it again, or,
 * with *disturbed, a serialization failure, when somebody else has locked a row and
 * does not end soon.
 */
void
short_wait_failed(volatile bool *disturbed)
{
	if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
		PG_RE_THROW();
	FlushErrorState();
	*disturbed = true;
	short_wait_raise();
}
