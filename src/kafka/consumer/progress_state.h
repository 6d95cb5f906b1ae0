/*-------------------------------------------------------------------------
 *
 * progress_state.h
 *	  What a look at the progress topic finds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROGRESS_STATE_H
#define OUTBOX_PROGRESS_STATE_H

#include "postgres.h"

/* What a look at the topic has found. */
typedef enum ProgressState
{
	PROGRESS_LOOKING,			/* nothing yet */
	PROGRESS_READY,				/* it can be read */
	PROGRESS_ABSENT,			/* there is none */
	PROGRESS_CREATED,			/* there was none; look again */
	PROGRESS_UNFIT,				/* an administrator has to do something */
	PROGRESS_UNREACHABLE		/* try again later */
} ProgressState;

#endif							/* OUTBOX_PROGRESS_STATE_H */
