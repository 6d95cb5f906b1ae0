/*-------------------------------------------------------------------------
 *
 * worker_reload.c
 *	  How background workers of ours follow changes of the configuration files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "registry/worker_reload.h"

#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"

#include "registry/launcher_view.h"

/* Reloads of the launcher's that this process has followed. */
static uint64 reloads_seen;

/*
 * Installs signal handlers and lets signals in.  SIGTERM ends the process at
 * the next CHECK_FOR_INTERRUPTS(), SIGHUP is for worker_handle_reload().
 */
void
worker_setup_signals(void)
{
	memcpy(&reloads_seen, MyBgworkerEntry->bgw_extra, sizeof(reloads_seen));
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	BackgroundWorkerUnblockSignals();
}

/*
 * Gives a process that is to be registered what worker_setup_signals() needs.
 */
void
worker_tell_reloads(BackgroundWorker *worker)
{
	uint64		reloads = shmem_reloads();

	memcpy(worker->bgw_extra, &reloads, sizeof(reloads));
}

/*
 * Reads the configuration files again if SIGHUP asked for it; returns whether it
 * did.
 */
bool
worker_reload_if_asked(void)
{
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

/*
 * The same for a process that the launcher has started.  The server ignores
 * SIGHUP in a background worker until that has handlers of its own, so one may
 * be lost just after the start.  Then the launcher, which has seen it, tells.
 */
void
worker_handle_reload(void)
{
	uint64		reloads = shmem_reloads();

	if (reloads != reloads_seen)
		ConfigReloadPending = true;
	reloads_seen = reloads;
	(void) worker_reload_if_asked();
}
