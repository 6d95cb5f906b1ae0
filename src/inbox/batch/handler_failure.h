/*-------------------------------------------------------------------------
 *
 * handler_failure.h
 *	  Why a handler failed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HANDLER_FAILURE_H
#define OUTBOX_HANDLER_FAILURE_H

#include "postgres.h"

/* Why the handler failed. */
typedef struct HandlerFailure
{
	int			sqlstate;
	char	   *message;
	char	   *context;		/* NULL when there is none */
	bool		transient;		/* nobody's fault: try again at once */
	bool		timeout;		/* it was canceled after handler_timeout */
} HandlerFailure;

#endif							/* OUTBOX_HANDLER_FAILURE_H */
