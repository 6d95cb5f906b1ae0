/*-------------------------------------------------------------------------
 *
 * short_wait.h
 *	  Statements of a worker that wait for rows, but not for long.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SHORT_WAIT_H
#define OUTBOX_SHORT_WAIT_H

#include "postgres.h"

extern void short_wait_raise(void);
extern int	short_wait_begin(void);
extern void short_wait_failed(volatile bool *disturbed);

#endif							/* OUTBOX_SHORT_WAIT_H */
