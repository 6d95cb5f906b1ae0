/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *	  What is done in a database now and then, whatever comes from Kafka.
 *
 * Old messages are removed: by the first worker of each subscription, and, for
 * databases that have none, by the scout, which looks for subscriptions.  The
 * scout notes, too, how the roles of subscriptions are called by now.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/worker/maintenance.h"

#include "executor/spi.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/monotonic_clock.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/subscription_row.h"
#include "inbox/table/ring.h"
#include "registry/consumer_entry.h"
#include "registry/discovery.h"
#include "registry/subscription_list.h"

#define EXPIRE_MS 60000
#define EXPIRE_LONGEST_MS 50	/* that messages may wait for it, and a step
								 * longer, */
#define EXPIRE_AGAIN_MS 500		/* and when it goes on then */

/*
 * Removes messages that are old enough, step by step, each in a transaction of
 * its own.  Returns whether there is more to do, after a while.
 */
static bool
expire(void)
{
	TimestampTz began = monotonic_now();
	bool		changed = true;

	while (changed &&
		   !TimestampDifferenceExceeds(began, monotonic_now(), EXPIRE_LONGEST_MS))
	{
		bool		isnull;

		worker_begin_sql();
		if (SPI_execute("SELECT inbox.expire()", false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not remove old messages");
		changed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
											 SPI_tuptable->tupdesc, 1, &isnull));
		worker_commit_sql();
	}
	return changed;
}

/*
 * The same now and then; one worker of a subscription is enough.
 */
void
maintenance_run(InboxWorker *worker)
{
	TimestampTz now = monotonic_now();

	if (worker->entry->worker != 0 || worker->expire_at > now)
		return;
	worker->expire_at =
		TimestampTzPlusMilliseconds(now, expire() ? EXPIRE_AGAIN_MS :
									ring_expire_interval(EXPIRE_MS));
}

/*
 * Lists the subscriptions for the launcher.  Once more, if somebody asked
 * again meanwhile.  Ends the process.
 */
void
maintenance_scout(ConsumerEntry *entry)
{
	int64		generation;

	do
	{
		generation = entry->generation;
		(void) discovery_publish();
	} while (!consumers_finish_scout(entry, generation));
	if (worker_extension_exists() && worker_version_conflict() == NULL)
	{
		(void) subscription_note_role_names();
		(void) expire();
	}
	proc_exit(0);
}
