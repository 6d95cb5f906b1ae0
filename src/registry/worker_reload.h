/*-------------------------------------------------------------------------
 *
 * worker_reload.h
 *	  How background workers of ours follow changes of the configuration files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_RELOAD_H
#define OUTBOX_WORKER_RELOAD_H

#include "postgres.h"

#include "postmaster/bgworker.h"

extern void worker_setup_signals(void);
extern void worker_tell_reloads(BackgroundWorker *worker);
extern bool worker_reload_if_asked(void);
extern void worker_handle_reload(void);

#endif							/* OUTBOX_WORKER_RELOAD_H */
