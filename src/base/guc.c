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
#include "base/guc.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

int			outbox_max_databases = 64;
int			outbox_max_event_size = 1000000;

/*
 * Defines all settings.  Called once, from _PG_init.
 */
void
guc_init(void)
{
	/* Shared memory is sized by it, so it exists only in the postmaster. */
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("outbox.max_databases",
								"Number of databases that can publish.",
								"Each of them also needs one of max_worker_processes.",
								&outbox_max_databases,
								64, 1, 10000,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("outbox.max_event_size",
							"Largest event that publish() takes: key, headers and payload together.",
							"Keep it below the broker's message.max.bytes.",
							&outbox_max_event_size,
							1000000, 1024, INT_MAX,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);

	MarkGUCPrefixReserved("outbox");
}
