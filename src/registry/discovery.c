/*-------------------------------------------------------------------------
 *
 * discovery.c
 *	  Reads inbox.subscription for the launcher.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "registry/discovery.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "core/background_worker.h"
#include "registry/subscription_list.h"

/*
 * Reads which subscriptions shall have workers and tells the launcher: none,
 * where the extension is of another version than we are.  Returns false when
 * they have changed meanwhile.
 */
static bool
read_and_publish(void)
{
	uint64		number = consumers_list_number(MyDatabaseId);
	ListedSubscription *list = NULL;
	int			n = 0;
	bool		published;
	bool		conflict = worker_extension_exists() &&
	worker_version_conflict() != NULL;

	worker_begin();
	if (!conflict && OidIsValid(get_extension_oid(EXTENSION_NAME, true)))
	{
		SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (SPI_execute("SELECT name, workers, " GENERATION " FROM inbox.subscription"
						" WHERE" IS_ACTIVE " ORDER BY created_at, name", true, 0) !=
			SPI_OK_SELECT)
			elog(ERROR, "could not read inbox.subscription");
		n = (int) SPI_processed;
		list = palloc0(sizeof(ListedSubscription) * Max(n, 1));
		for (int i = 0; i < n; i++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			bool		isnull;

			list[i].name = SPI_getvalue(tuple, desc, 1);
			list[i].workers = DatumGetInt32(SPI_getbinval(tuple, desc, 2, &isnull));
			list[i].generation = DatumGetInt64(SPI_getbinval(tuple, desc, 3, &isnull));
		}
	}
	published = consumers_publish_list(MyDatabaseId, number, list, n);
	if (list)
	{
		PopActiveSnapshot();
		SPI_finish();
	}
	CommitTransactionCommand();
	return published;
}

/*
 * Tells the launcher which subscriptions shall have workers, as they are now.
 * Runs transactions of its own.  Returns false when there is no room for all.
 */
bool
discovery_publish(void)
{
	bool		room;

	while (!read_and_publish())
		CHECK_FOR_INTERRUPTS();
	room = !consumers_crowded(MyDatabaseId);
	if (!room)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("not every subscription can have its workers"),
				 errhint("Raise outbox.max_consumers and restart the server.")));
	return room;
}
