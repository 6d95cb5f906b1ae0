/*-------------------------------------------------------------------------
 *
 * worker_wait.c
 *	  How a worker waits, and how it ends on purpose.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/process/worker_wait.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"

#include "core/compat.h"
#include "inbox/process/inbox_worker.h"
#include "kafka/config/config.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumers.h"
#include "registry/worker_reload.h"

/*
 * Ends the process on purpose; the launcher starts the next one at once, if
 * one is wanted.
 */
void
worker_restart(InboxWorker *worker)
{
	worker->leave(worker);
	consumers_progress(worker->entry);
	proc_exit(0);
}

/*
 * Does what must be done whenever the latch was set.  May end the process.
 */
void
worker_check(InboxWorker *worker)
{
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();

	/* With a backlog, no wait would tell; and no server could start. */
	if (!PostmasterIsAlive())
		proc_exit(1);
	worker_handle_reload();
	if (consumers_must_leave(worker->entry) ||
		(worker->subscription &&
		 worker->entry->generation != worker->listed &&
		 worker->entry->generation != worker->subscription->generation))
		worker_restart(worker);
}

/*
 * Waits for the latch, Kafka, or the time-out in ms; -1 for none.
 */
void
worker_wait(InboxWorker *worker, long timeout_ms)
{
	WaitEvent	event;

	if (worker->wait_set == NULL)
	{
		worker->wait_set = compat_create_wait_event_set(3);
		AddWaitEventToSet(worker->wait_set, WL_LATCH_SET, PGINVALID_SOCKET,
						  MyLatch, NULL);
		AddWaitEventToSet(worker->wait_set, WL_EXIT_ON_PM_DEATH,
						  PGINVALID_SOCKET, NULL, NULL);
		if (worker->consumer)
			AddWaitEventToSet(worker->wait_set, WL_SOCKET_READABLE,
							  consumer_event_fd(worker->consumer), NULL, NULL);
	}
	(void) WaitEventSetWait(worker->wait_set,
							kafka_config_wait_ms(worker->config, timeout_ms),
							&event, 1, PG_WAIT_EXTENSION);
	worker_check(worker);
}
