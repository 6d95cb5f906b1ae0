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

extern int	outbox_max_databases;
extern int	outbox_capture;
extern int	outbox_poll_interval;
extern int	outbox_max_slot_wal;
extern int	outbox_transaction_interval;
extern int	outbox_max_event_size;

extern void guc_init(void);

#endif							/* OUTBOX_GUC_H */
