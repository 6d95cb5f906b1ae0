/*-------------------------------------------------------------------------
 *
 * last_error.c
 *	  The error that ends a worker, for the status that it leaves.
 *
 * A worker does not catch the error that ends it, so that it is logged and
 * cleaned up after as usual; what it was is only seen as it is logged.
 *
 *-------------------------------------------------------------------------
 */
#include "core/last_error.h"

static emit_log_hook_type prev_emit_log_hook = NULL;
static char words[LAST_WORDS_LEN];
static bool asked_to_end = false;

/* Keeps an error with its hint, unless it is that we were asked to end. */
static void
keep(ErrorData *error)
{
	if (prev_emit_log_hook)
		prev_emit_log_hook(error);
	if (error->elevel < ERROR)
		return;
	if (error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
		asked_to_end = true;
	else if (error->message)
		snprintf(words, sizeof(words), error->hint ? "%s (%s)" : "%s",
				 error->message, error->hint);
}

/*
 * Keeps the errors of this process from now on.  To be called once.
 */
void
last_error_keep(void)
{
	prev_emit_log_hook = emit_log_hook;
	emit_log_hook = keep;
}

/*
 * Does this process, which ends with that exit code, end because of an error?
 * Also when the server is set up to log none.
 */
bool
last_error_failed(int code)
{
	return code != 0 && !asked_to_end;
}

/*
 * The last error that was kept; NULL when there was none.
 */
const char *
last_words(void)
{
	return words[0] != '\0' ? words : NULL;
}
