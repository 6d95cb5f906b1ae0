/*-------------------------------------------------------------------------
 *
 * ending.h
 *	  How a relay ends, and how cautious that makes the next one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ENDING_H
#define OUTBOX_ENDING_H

#include "postgres.h"

#include "core/compat.h"

extern void ending_begin(void);
extern void ending_progressed(void);
pg_noreturn extern void ending_restart(void);
pg_noreturn extern void ending_restart_later(void);
extern bool ending_is_cautious(void);
extern void ending_proved(void);
extern int	ending_batch_events(void);
extern void ending_batch_done(void);

#endif							/* OUTBOX_ENDING_H */
