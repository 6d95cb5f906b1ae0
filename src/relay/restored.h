/*-------------------------------------------------------------------------
 *
 * restored.h
 *	  Was this server restored to a point in time?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RESTORED_H
#define OUTBOX_RESTORED_H

#include "access/xlogdefs.h"

extern TimeLineID restored_from(void);

#endif							/* OUTBOX_RESTORED_H */
