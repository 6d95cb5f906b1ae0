/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  Settings: every outbox.* parameter is defined in guc.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GUC_H
#define OUTBOX_GUC_H

#include "postgres.h"

typedef enum CaptureMode
{
	CAPTURE_AUTO,
	CAPTURE_LOG,
	CAPTURE_POLL
} CaptureMode;

/* What becomes of later events of a key that has a dead letter. */
typedef enum DeadLetterPolicy
{
	DEAD_LETTER_SKIP,			/* they go on */
	DEAD_LETTER_HOLD			/* they wait */
} DeadLetterPolicy;

extern int	outbox_max_databases;
extern int	outbox_on_dead_letter;
extern int	outbox_max_consumers;
extern int	outbox_capture;
extern int	outbox_poll_interval;
extern int	outbox_max_slot_wal;
extern int	outbox_transaction_interval;
extern int	outbox_max_event_size;
extern int	inbox_dedupe_window;
extern int	inbox_max_workers_per_role;
extern int	inbox_max_keep;

extern void guc_init(void);
extern bool capture_is_polling(void);

#endif							/* OUTBOX_GUC_H */
