/*-------------------------------------------------------------------------
 *
 * settings_watch.c
 *	  Whether a relay still goes by the Kafka settings that are valid now.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/settings_watch.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "registry/relay_entry.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/transactional_id.h"
#include "relay/process/ending.h"
#include "relay/state/relay.h"
#include "relay/state/send_requests.h"
#include "relay/table/identity_table.h"

#define LOOK_INTERVAL_MS 10000	/* at what the producer keeps */

/*
 * Reads the Kafka settings, into memory of their own; NULL when there are none.
 */
KafkaConfig *
settings_watch_load(Relay *relay)
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

/*
 * Frees settings that nobody goes by.
 */
void
settings_watch_forget(KafkaConfig *config)
{
	MemoryContextDelete(GetMemoryChunkContext(config));
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
	config = settings_watch_load(relay);
	if (config != NULL && kafka_config_equal(config, relay->config))
	{
		settings_watch_forget(config);
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
	TimestampTz now = monotonic_now();

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
settings_watch_outdated(Relay *relay)
{
	if (!kafka_settings_changed(relay) && !producer_is_worn(relay))
		return false;
	if (relay->connected)
		sender_drain(relay);
	return true;
}
