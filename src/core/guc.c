/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  Settings.
 *
 * Few on purpose: what Kafka needs to know is an option of the foreign
 * server, and everything else should need no tuning.
 *
 *-------------------------------------------------------------------------
 */
#include "core/guc.h"

#include <limits.h>

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/guc.h"

int			outbox_max_databases = 64;
int			outbox_max_consumers = 128;
int			outbox_max_event_size = 1000000;
int			outbox_capture = CAPTURE_AUTO;
int			outbox_poll_interval = 1000;
int			outbox_max_slot_wal = 10240;
int			outbox_transaction_interval = 100;
int			outbox_on_dead_letter = DEAD_LETTER_SKIP;
int			inbox_dedupe_window = 604800;
int			inbox_max_workers_per_role = -1;
int			inbox_max_keep = -1;

static const struct config_enum_entry capture_modes[] = {
	{"auto", CAPTURE_AUTO, false},
	{"log", CAPTURE_LOG, false},
	{"poll", CAPTURE_POLL, false},
	{NULL, 0, false}
};

static const struct config_enum_entry dead_letter_policies[] = {
	{"skip", DEAD_LETTER_SKIP, false},
	{"hold", DEAD_LETTER_HOLD, false},
	{NULL, 0, false}
};

static void
define_inbox_settings(void)
{
	DefineCustomIntVariable("inbox.dedupe_window",
							"How long a message that comes again is recognized, at least.",
							"Processed messages stay as long, unless their subscription says otherwise.",
							&inbox_dedupe_window,
							604800, 1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	DefineCustomIntVariable("inbox.max_workers_per_role",
							"Workers that all subscriptions of a role in a database may have together.",
							"Looked at by inbox.subscribe(). -1 means no limit.",
							&inbox_max_workers_per_role,
							-1, -1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("inbox.max_keep",
							"Longest time for which a subscription may keep processed messages.",
							"Looked at by inbox.subscribe(); inbox.dedupe_window is always allowed. -1 means no limit.",
							&inbox_max_keep,
							-1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

/*
 * Defines all settings.  Called once, from _PG_init.
 */
void
guc_init(void)
{
	/* Shared memory is sized by it, so it exists only in the postmaster. */
	if (process_shared_preload_libraries_in_progress)
	{
		DefineCustomIntVariable("outbox.max_databases",
								"Number of databases that can publish.",
								"Each of them also needs one of max_worker_processes.",
								&outbox_max_databases,
								64, 1, 10000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);
		DefineCustomIntVariable("outbox.max_consumers",
								"Number of workers of subscriptions, in all databases.",
								"Each of them also needs one of max_worker_processes.",
								&outbox_max_consumers,
								128, 1, 10000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);
	}

	DefineCustomIntVariable("outbox.max_event_size",
							"Largest event that publish() takes: key, headers and payload together.",
							"Keep it below the broker's message.max.bytes.",
							&outbox_max_event_size,
							1000000, 1024, INT_MAX,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);

	DefineCustomEnumVariable("outbox.capture",
							 "How relays learn of events: from the log or by polling the table.",
							 "\"auto\" uses the log where wal_level is logical, and polls elsewhere.",
							 &outbox_capture,
							 CAPTURE_AUTO, capture_modes,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("outbox.poll_interval",
							"Longest time between two looks at the table when polling.",
							"A commit of publish() makes the relay look at once.",
							&outbox_poll_interval,
							1000, 10, 3600000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("outbox.max_slot_wal",
							"WAL that a relay's slot may hold for what Kafka has not acknowledged, and for open transactions.",
							"Above it the slot is given up, and the events are taken from the table. -1 means no limit.",
							&outbox_max_slot_wal,
							10240, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);

	DefineCustomIntVariable("outbox.transaction_interval",
							"Shortest time between two Kafka transactions when deliveries are exact.",
							"Transactions that begin with a backlog may last ten times as long.",
							&outbox_transaction_interval,
							100, 1, 60000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomEnumVariable("outbox.on_dead_letter",
							 "What becomes of later events of a key when Kafka refuses one for good.",
							 "\"skip\" sends them, \"hold\" lets them wait until the dead letter is retried or discarded.",
							 &outbox_on_dead_letter,
							 DEAD_LETTER_SKIP, dead_letter_policies,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	define_inbox_settings();

	MarkGUCPrefixReserved("outbox");
	MarkGUCPrefixReserved("inbox");
}

/*
 * Shall the relay poll the table, rather than decode the log?
 */
bool
capture_is_polling(void)
{
	return outbox_capture == CAPTURE_POLL ||
		(outbox_capture == CAPTURE_AUTO && wal_level < WAL_LEVEL_LOGICAL);
}
