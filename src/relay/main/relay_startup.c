/*-------------------------------------------------------------------------
 *
 * relay_startup.c
 *	  What must be in place before a relay can work: the database is no copy
 *	  that nobody has decided about, the server lets us decode, and there are
 *	  Kafka settings that make a producer.
 *	  And whether that is still so.
 *
 * Waiting ends by a change, which makes the process start over (see
 * relay_wait), or by a reload of the configuration files.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/main/relay_startup.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "core/background_worker.h"
#include "core/guc.h"
#include "core/monotonic_clock.h"
#include "core/replication_slot.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/transactional_id.h"
#include "relay/main/relay_main.h"
#include "relay/process/ending.h"
#include "relay/source/dead_letter_retry.h"
#include "relay/source/replay.h"
#include "relay/state/relay.h"
#include "relay/table/identity_table.h"
#include "relay/wal/slot_decoder.h"

#define LOOK_INTERVAL_MS 10000	/* at what the producer keeps */

/* Waits until something may have changed: settings, or a reload. */
static void
wait_for_change(Relay *relay, const char *reason)
{
	relay_obstacle(relay, RELAY_WAITING_CONFIGURATION, reason);
	relay_wait(relay, -1);
}

/*
 * Is our plugin allowed?  Newer minor releases have a list of the libraries
 * that may decode; older ones have no such parameter.
 */
static bool
plugin_is_allowed(void)
{
	const char *value = GetConfigOption("output_plugin_libraries", true, false);
	List	   *names;
	ListCell   *lc;
	char	   *copy;

	if (value == NULL)
		return true;
	copy = pstrdup(value);
	if (SplitIdentifierString(copy, ',', &names))
		foreach(lc, names)
			if (strcmp(lfirst(lc), WORKER_LIBRARY) == 0 ||
				strcmp(lfirst(lc), "*") == 0)
			return true;
	return false;
}

/* Waits until the extension is of the version that we are. */
static void
wait_for_version(Relay *relay)
{
	const char *conflict;

	while ((conflict = worker_version_conflict()) != NULL)
		wait_for_change(relay, conflict);
}

/*
 * Shall the relay poll the table, rather than decode the log?
 */
bool
settings_polling(void)
{
	return outbox_capture == CAPTURE_POLL ||
		(outbox_capture == CAPTURE_AUTO && wal_level < WAL_LEVEL_LOGICAL);
}

/*
 * Waits until the server's settings let us decode, unless we poll: then a slot
 * would be in the way, of WAL and of a change of wal_level.
 */
static void
wait_for_server_settings(Relay *relay)
{
	while (!settings_polling() && wal_level < WAL_LEVEL_LOGICAL)
		wait_for_change(relay, "wal_level is below logical; set wal_level = logical and restart the server, or set outbox.capture = auto");
	while (!settings_polling() && !plugin_is_allowed())
		wait_for_change(relay, "output_plugin_libraries does not list outbox; add it and reload the configuration");
	if (settings_polling() && decode_slot_condition() == SLOT_USABLE)
		decode_slot_drop();
}

/*
 * A copy of another database waits until outbox.resume() decides.  It needs
 * no slot, since it catches up from the table then; nor does one that was
 * just adopted.
 */
static void
wait_for_identity(Relay *relay)
{
	Identity	identity = identity_check();

	if (identity != IDENTITY_SETTLED && decode_slot_condition() == SLOT_USABLE)
		decode_slot_drop();
	while (identity == IDENTITY_COPIED)
	{
		relay_obstacle(relay, RELAY_COPIED,
					   "this database is a copy and publishes nothing; call outbox.resume(true) to publish what the original had not, outbox.resume(false) to count it as done");
		relay_wait(relay, -1);
	}
}

/*
 * Reads the Kafka settings, into memory of their own; NULL when there are none.
 */
static KafkaConfig *
load(Relay *relay)
{
	KafkaConfig *config;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox Kafka settings",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old;

	relay->configuration = shmem_relay_configuration();
	worker_begin_afresh();
	old = MemoryContextSwitchTo(context);
	config = kafka_config_load(KAFKA_SERVER_NAME);
	MemoryContextSwitchTo(old);
	CommitTransactionCommand();
	if (config == NULL)
		MemoryContextDelete(context);
	else if (config->exactly_once)
		config->transactional_id = transactional_id_name(config, 0);
	return config;
}

/* Frees settings that nobody goes by. */
static void
forget(KafkaConfig *config)
{
	MemoryContextDelete(GetMemoryChunkContext(config));
}

/* Waits until there is a configuration that makes a producer. */
static void
wait_for_kafka_settings(Relay *relay)
{
	for (;;)
	{
		relay->config = load(relay);
		if (relay->config == NULL)
		{
			if (decode_slot_condition() == SLOT_USABLE)
				decode_slot_drop();
			wait_for_change(relay, "no Kafka settings; CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" 'host:port')");
		}
		else if (sender_open(relay))
			return;
		else
		{
			wait_for_change(relay, relay->status.error);
			forget(relay->config);
			relay->config = NULL;
		}
	}
}

/*
 * Text for Kafka is UTF-8.  As the encoding of a client it can be converted to
 * outside of transactions.
 */
static void
set_encoding(void)
{
	worker_begin();
	(void) set_config_option("client_encoding", "UTF8", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SET, true, LOG, false);
	CommitTransactionCommand();
}

/*
 * Waits until all is in place; then the relay has a producer.
 */
void
settings_wait(Relay *relay)
{
	uint64		configuration = shmem_relay_configuration();

	set_encoding();
	wait_for_version(relay);
	wait_for_identity(relay);
	wait_for_server_settings(relay);
	wait_for_kafka_settings(relay);
	/* What changed since we looked at the identity is still to be seen. */
	relay->configuration = configuration;
}

/* Ends the relay when somebody asked for it and the extension has gone. */
static void
check_extension(Relay *relay)
{
	uint64		requests = shmem_relay_requests();

	if (requests == relay->requests)
		return;
	relay->requests = requests;
	if (!worker_extension_exists())
		ending_restart();
}

/*
 * Looks again at what the relay goes by, after somebody changed something.
 * Returns whether it goes by other Kafka settings than the present ones.  Ends
 * the process when the database is not ours to publish any more.
 */
static bool
kafka_settings_changed(Relay *relay)
{
	uint64		before = relay->configuration;
	uint64		configuration = shmem_relay_configuration();
	KafkaConfig *config;

	check_extension(relay);
	if (before == configuration && !kafka_config_files_changed(relay->config))
		return false;
	replay_look();
	resend_look();
	if (identity_check() != IDENTITY_SETTLED)
		ending_restart();
	config = load(relay);
	if (config != NULL && kafka_config_equal(config, relay->config))
	{
		forget(config);
		/* What changed since we looked at the identity is still to be seen. */
		relay->configuration = configuration;
		return false;
	}
	relay->configuration = before;
	ereport(LOG, (errmsg("outbox relay starts over with changed Kafka settings")));
	return true;
}

/*
 * Does the producer keep too much that nobody uses?  Looks now and then, and
 * leaves alone what waits for Kafka.
 */
static bool
producer_is_worn(const Relay *relay)
{
	static TimestampTz looked_at = 0;
	TimestampTz now = steady_now();

	if (!relay->connected ||
		!TimestampDifferenceExceeds(looked_at, now, LOOK_INTERVAL_MS))
		return false;
	looked_at = now;
	if (!producer_is_overgrown(relay->producer))
		return false;
	ereport(LOG, (errmsg("outbox relay starts over to let go of topics that were not used for an hour")));
	return true;
}

/*
 * Is the relay to start over, with other Kafka settings or with another
 * producer?  Then what was sent is acknowledged, if a broker answers.  Ends the
 * process when the database is not ours to publish any more, or when something
 * is in the way of those acknowledgements.  Outside of transactions.
 */
bool
settings_outdated(Relay *relay)
{
	if (!kafka_settings_changed(relay) && !producer_is_worn(relay))
		return false;
	if (relay->connected)
		sender_drain(relay);
	return true;
}
