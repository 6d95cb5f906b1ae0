/*-------------------------------------------------------------------------
 *
 * timeline_history.h
 *	  Was this server restored to a point in time?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TIMELINE_HISTORY_H
#define OUTBOX_TIMELINE_HISTORY_H

#include "postgres.h"

#include "access/xlogdefs.h"

extern TimeLineID timeline_restored_from(void);

#endif							/* OUTBOX_TIMELINE_HISTORY_H */
