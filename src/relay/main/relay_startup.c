/*-------------------------------------------------------------------------
 *
 * relay_startup.c
 *	  What must be in place before a relay can work: the database is no copy
 *	  that nobody has decided about, the server lets us decode, and there are
 *	  Kafka settings that make a producer.
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
#include "core/replication_slot.h"
#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "relay/delivery/sender.h"
#include "relay/delivery/settings_watch.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/relay.h"
#include "relay/table/identity_table.h"
#include "relay/wal/slot_decoder.h"

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
 * Waits until the server's settings let us decode, unless we poll: then a slot
 * would be in the way, of WAL and of a change of wal_level.
 */
static void
wait_for_server_settings(Relay *relay)
{
	while (!capture_is_polling() && wal_level < WAL_LEVEL_LOGICAL)
		wait_for_change(relay, "wal_level is below logical; set wal_level = logical and restart the server, or set outbox.capture = auto");
	while (!capture_is_polling() && !plugin_is_allowed())
		wait_for_change(relay, "output_plugin_libraries does not list outbox; add it and reload the configuration");
	if (capture_is_polling() && slot_decoder_slot_condition() == SLOT_USABLE)
		slot_decoder_slot_drop();
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

	if (identity != IDENTITY_SETTLED && slot_decoder_slot_condition() == SLOT_USABLE)
		slot_decoder_slot_drop();
	while (identity == IDENTITY_COPIED)
	{
		relay_obstacle(relay, RELAY_COPIED,
					   "this database is a copy and publishes nothing; call outbox.resume(true) to publish what the original had not, outbox.resume(false) to count it as done");
		relay_wait(relay, -1);
	}
}

/* Waits until there is a configuration that makes a producer. */
static void
wait_for_kafka_settings(Relay *relay)
{
	for (;;)
	{
		relay->config = settings_watch_load(relay);
		if (relay->config == NULL)
		{
			if (slot_decoder_slot_condition() == SLOT_USABLE)
				slot_decoder_slot_drop();
			wait_for_change(relay, "no Kafka settings; CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" 'host:port')");
		}
		else if (sender_open(relay))
			return;
		else
		{
			wait_for_change(relay, relay->status.error);
			settings_watch_forget(relay->config);
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
relay_startup_wait(Relay *relay)
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
