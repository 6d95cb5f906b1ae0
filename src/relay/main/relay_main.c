/*-------------------------------------------------------------------------
 *
 * relay_main.c
 *	  The relay: the background worker that publishes one database's events.
 *
 * Its life:
 *
 *	 attach		to its entry of the registry, before it connects, so that a
 *				command that wants the database empty can hold it off
 *	 look		whether the extension is here; if not, it drops a slot that
 *				an earlier one left, says so and ends
 *	 configure	wait until the server allows what is needed and the foreign
 *				server "kafka" exists (relay_startup.c)
 *	 catch up	only when there is no slot to go on with: from the table, until
 *				there is one
 *	 stream		WAL -> plugin -> sender -> Kafka, and back: acknowledgement
 *				-> ledger -> slot
 *
 * Whatever changes its footing (settings, the extension, a broken pipeline, a
 * command that wants the database empty) ends the process; the launcher
 * starts the next one at once, or after a back-off if it made no progress.
 * So there is one way to begin, and it is used all the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/main/relay_main.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/guc.h"
#include "core/replication_slot.h"
#include "core/worker_session.h"
#include "event/event.h"
#include "kafka/producer/producer.h"
#include "registry/databases.h"
#include "registry/discovery.h"
#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "registry/worker_reload.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/dead_letters.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/new_topics.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/settings_watch.h"
#include "relay/main/relay_leave.h"
#include "relay/main/relay_startup.h"
#include "relay/main/relay_takeover.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/process/slot_limit.h"
#include "relay/progress/resume_point.h"
#include "relay/progress/slot_progress.h"
#include "relay/source/catchup_round.h"
#include "relay/source/dead_letter_retry.h"
#include "relay/source/polling.h"
#include "relay/source/replay.h"
#include "relay/state/commit.h"
#include "relay/state/ledger.h"
#include "relay/state/record_encoder.h"
#include "relay/state/relay.h"
#include "relay/state/watermark.h"
#include "relay/table/watermark_table.h"
#include "relay/wal/async_commit_flush.h"
#include "relay/wal/output_plugin.h"
#include "relay/wal/slot_decoder.h"

#define RECORDS_PER_ROUND 256	/* decoded before Kafka is served again */
#define IDLE_MS 1000
#define UNFLUSHED_MS 10			/* while there is WAL that is not safe yet */
#define MEBIBYTE (1024 * 1024)

/*
 * Freed memory that the C library keeps.  With less it returns what a batch
 * took to the kernel and asks for it again with the next.
 */
#define KEEP_FREED_BYTES (16 * MEBIBYTE)

/* What was published before we came, and need not be sent again. */
static const Watermark *skip = NULL;

/*
 * Waits likewise for more to decode.
 */
static void
wait_for_more(Relay *relay, long timeout_ms)
{
	if (exactly_once_ends_soon(relay))
		producer_prepare(relay->producer);
	else
		producer_flush(relay->producer);
	relay_wait_for_event(relay, timeout_ms);
}

/* The plugin's sink: an event. */
static void
stream_event(void *arg, const Event *event, const Commit *commit)
{
	Relay	   *relay = arg;

	/* When deliveries are exact, so is the position. */
	if (skip && ((relay->exact && commit->end <= skip->lsn) ||
				 watermark_shows(skip, event->xid)))
	{
		dead_letters_met(event);
		return;
	}
	progress_note_event(relay, event);
	if (resume_point_covers(commit))
		dead_letters_met(event);
	else
		sender_event(relay, event, commit);
}

/* The plugin's sink: the end of a transaction. */
static void
stream_commit(void *arg, XLogRecPtr end)
{
	ledger_close_commit(((Relay *) arg)->ledger, end);
}

/* Creates the slot and catches up, or goes on with the slot there is. */
static void
open_stream(Relay *relay)
{
	static EventSink sink = {stream_event, stream_commit};
	Watermark  *watermark = watermark_load(TopMemoryContext);

	sink.arg = relay;
	switch (slot_decoder_slot_condition())
	{
		case SLOT_FOREIGN:
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("the replication slot of the outbox relay exists and is not ours"),
					 errhint("Drop the slot \"%s\" if nobody needs it.",
							 NameStr(relay->status.slot))));
			break;
		case SLOT_INVALIDATED:
			ereport(LOG,
					(errmsg("outbox relay lost its replication slot: the server invalidated it"),
					 errdetail("It catches up from the table.")));
			slot_decoder_slot_drop();
			polling_until_slot(relay);
			break;
		case SLOT_MISSING:
			polling_until_slot(relay);
			break;
		case SLOT_USABLE:
			skip = watermark;
			break;
	}
	relay->working_state = RELAY_STREAMING;
	slot_decoder_open(&sink);
	progress_begin();
	relay->status.confirmed = slot_decoder_confirmed();
}

/* Decodes some records; returns whether there may be more. */
static bool
decode_some(Relay *relay, XLogRecPtr limit)
{
	for (int i = 0; i < RECORDS_PER_ROUND && !exactly_once_is_full(relay); i++)
		if (!slot_decoder_next(limit))
			return false;
	return true;
}

/*
 * Starts over in an orderly way when the settings have changed, or to let go of
 * topics.
 */
static void
check_settings(Relay *relay)
{
	if (!settings_watch_outdated(relay))
		return;
	if (relay->connected && relay->exact)
		exactly_once_commit(relay, slot_decoder_position());
	/* What was sent behind an event that is kept would come twice. */
	else if (relay->connected)
		new_topics_flush(relay);
	progress_confirm(relay);
	slot_decoder_save_slot();
	ending_restart();
}

/* How long to wait for more: not long while WAL waits to become safe. */
static long
idle_time(XLogRecPtr limit)
{
	return slot_decoder_wal_end() > limit ? UNFLUSHED_MS : IDLE_MS;
}

/* How long to wait when there is nothing to do. */
static long
wait_time(const Relay *relay, XLogRecPtr limit)
{
	long		timeout_ms = exactly_once_idle_time(relay, idle_time(limit));

	return new_topics_wait_ms(dead_letter_retry_wait_ms(relay, timeout_ms));
}

/* Streams until something ends the process. */
static void
stream(Relay *relay)
{
	while (!capture_is_polling())
	{
		XLogRecPtr	limit = slot_decoder_limit();
		bool		more;

		/* What is committed after a change lies beyond the limit. */
		check_settings(relay);
		more = decode_some(relay, limit);
		relay->caught_up |= !more || slot_decoder_position() >= relay->began_lsn;
		async_commit_flush_check();
		new_topics_step(relay, !more);
		relay->status.received = slot_decoder_position();
		if (skip && relay->status.received > skip->lsn)
			skip = NULL;
		sender_poll(relay);
		if (relay->exact)
			exactly_once_step(relay, !more);
		progress_confirm(relay);
		if (relay->exact == NULL)
			progress_move_watermark(relay);
		connection_check(relay);
		if (ledger_is_empty(relay->ledger) &&
			relay->status.confirmed == slot_decoder_position())
			slot_decoder_trim();
		more |= dead_letter_retry_step(relay);
		more |= replay_step(relay);
		if (more)
		{
			producer_flush_old(relay->producer);
			relay_show(relay);
			relay_handle_latch(relay);
			slot_limit_keep(relay);
		}
		else
		{
			relay_show_now(relay);
			wait_for_more(relay, wait_time(relay, limit));
		}
	}
	ending_restart();
}

static Relay *
relay_create(uint64 requests)
{
	Relay	   *relay = MemoryContextAllocZero(TopMemoryContext, sizeof(Relay));

	shmem_relay_load(&relay->status);
	shmem_set_state(&relay->status, RELAY_STARTING);
	relay->status.started_at = GetCurrentTimestamp();
	relay->status.in_flight = 0;
	relay->status.catching_up = false;
	relay->status.pinned_by = InvalidTransactionId;
	slot_decoder_slot_name(NameStr(relay->status.slot));
	relay->requests = requests;
	relay->note_source = catchup_show;
	relay->began_lsn = slot_decoder_wal_end();
	relay->configuration = shmem_relay_configuration();
	relay->logged_state = RELAY_STARTING;
	relay->working_state = RELAY_STARTING;
	relay->reopen_delay = FIRST_BACKOFF_MS;
	relay->ledger = ledger_create(TopMemoryContext);
	record_encoder_init(&relay->encoder, TopMemoryContext);
	relay->retries_before = relay->status.retries;
	relay_show_now(relay);
	return relay;
}

/*
 * Ends this relay when its database does not hold the extension.  Returns the
 * number of requests that it has answered.
 */
static uint64
leave_if_absent(void)
{
	uint64		requests;

	do
	{
		requests = shmem_relay_requests();
		if (worker_extension_exists())
		{
			/* Consumers shall not have to wait for what the relay waits for. */
			(void) discovery_publish();
			return requests;
		}
		if (slot_decoder_slot_condition() == SLOT_USABLE ||
			slot_decoder_slot_condition() == SLOT_INVALIDATED)
			slot_decoder_slot_drop();
	} while (!shmem_relay_absent(requests));
	proc_exit(0);
}

/* The C library would find these out, but only after a large transaction. */
static void
configure_malloc(void)
{
#ifdef __GLIBC__
	(void) mallopt(M_MMAP_THRESHOLD, KEEP_FREED_BYTES);
	(void) mallopt(M_TRIM_THRESHOLD, KEEP_FREED_BYTES);
#endif
}

/*
 * Entry point of a relay process; the argument is the database's oid.
 */
void
outbox_relay_main(Datum arg)
{
	Oid			database = DatumGetObjectId(arg);
	Relay	   *relay;

	configure_malloc();
	worker_setup_signals();
	if (!shmem_relay_attach(database))
		proc_exit(0);
	session_connect(database);
	MemoryContextSwitchTo(TopMemoryContext);
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "outbox relay");
	relay = relay_create(leave_if_absent());
	leaving_begin(relay);
	relay_startup_wait(relay);
	takeover_start(relay);
	dead_letters_start(relay);
	if (capture_is_polling())
		polling_run(relay);
	open_stream(relay);
	stream(relay);
}
