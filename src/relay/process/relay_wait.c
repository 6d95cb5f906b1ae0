/*-------------------------------------------------------------------------
 *
 * relay_wait.c
 *	  How a relay waits, and what it does now and then meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/process/relay_wait.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "core/compat.h"
#include "core/guc.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "registry/relay_entry.h"
#include "registry/worker_reload.h"
#include "relay/process/ending.h"
#include "relay/process/slot_limit.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"
#include "relay/wal/running_xacts.h"
#include "relay/wal/slot_decoder.h"

#define IDLE_MS 1000
#define BEHIND_MS 1000			/* a commit, that is not acknowledged */

static void
make_wait_set(Relay *relay)
{
	relay->wait_set = compat_create_wait_event_set(3);
	AddWaitEventToSet(relay->wait_set, WL_LATCH_SET, PGINVALID_SOCKET,
					  MyLatch, NULL);
	AddWaitEventToSet(relay->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET,
					  NULL, NULL);
	if (relay->producer)
		AddWaitEventToSet(relay->wait_set, WL_SOCKET_READABLE,
						  producer_event_fd(relay->producer), NULL, NULL);
}

/*
 * Does what must be done whenever the latch was set.  May end the process:
 * at SIGTERM, when the database is held, and, since decoding cannot be left
 * halfway, when settings (files that they name included) or extension changed
 * while something is in the way.
 */
void
relay_handle_latch(Relay *relay)
{
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	worker_handle_reload();
	if (shmem_relay_must_leave())
		ending_restart();
	if (relay->status.state != relay->working_state &&
		(relay->configuration != shmem_relay_configuration() ||
		 relay->requests != shmem_relay_requests() ||
		 (relay->config && kafka_config_files_changed(relay->config))))
		ending_restart();
}

/* Is there WAL that waits for Kafka, or for a slot, for longer than usual? */
static bool
is_behind(const Relay *relay)
{
	TimestampTz oldest = ledger_oldest_commit(relay->ledger);

	return !capture_is_polling() &&
		(relay->status.state != relay->working_state ||
		 (oldest != 0 && TimestampDifferenceExceeds(oldest, GetCurrentTimestamp(),
													BEHIND_MS)));
}

/*
 * Does what must be done now and then, and after every wait: what the latch
 * asks for, and, since the slot may be ours, keeping it from holding too much.
 * May end the process.
 */
void
relay_tend(Relay *relay)
{
	relay_handle_latch(relay);
	slot_limit_keep(relay);
	if (is_behind(relay))
		running_write();
}

/*
 * Waits as relay_wait() does, whatever is to be sent.
 */
void
relay_wait_for_event(Relay *relay, long timeout_ms)
{
	WaitEvent	event;

	if (slot_decoder_has_slot())
		timeout_ms = timeout_ms < 0 ? IDLE_MS : Min(timeout_ms, IDLE_MS);

	if (relay->wait_set == NULL)
		make_wait_set(relay);
	(void) WaitEventSetWait(relay->wait_set,
							kafka_config_wait_ms(relay->config, timeout_ms),
							&event, 1, PG_WAIT_EXTENSION);
	relay_tend(relay);
}

/*
 * Waits for the latch, the producer, or the time-out in ms; -1 for none.
 */
void
relay_wait(Relay *relay, long timeout_ms)
{
	if (relay->producer)
		producer_flush(relay->producer);
	relay_wait_for_event(relay, timeout_ms);
}
