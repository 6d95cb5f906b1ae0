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

extern int	outbox_max_databases;
extern int	outbox_max_event_size;

extern void guc_init(void);

#endif							/* OUTBOX_GUC_H */
