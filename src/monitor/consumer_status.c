/*-------------------------------------------------------------------------
 *
 * consumer_status.c
 *	  inbox.consumer_status(): the workers of this database's subscriptions,
 *	  out of shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "registry/consumer_entry.h"
#include "registry/consumers.h"
#include "registry/subscription_list.h"

PG_FUNCTION_INFO_V1(outbox_consumer_status);

/* Columns of inbox.consumer_status(), in order. */
enum
{
	COL_SUBSCRIPTION,
	COL_WORKER,
	COL_PID,
	COL_STATE,
	COL_PARTITIONS,
	COL_LAG,
	COL_LAG_SECONDS,
	COL_ERROR,
	COL_ERROR_AT,
	COL_STARTED_AT,
	COL_STATE_SINCE,
	NCOLUMNS
};

static const char *const state_names[] = {
	[CONSUMER_STOPPED] = "stopped",
	[CONSUMER_STARTING] = "starting",
	[CONSUMER_RUNNING] = "running",
	[CONSUMER_WAITING_KAFKA] = "waiting for kafka",
	[CONSUMER_DATA_LOST] = "data lost",
	[CONSUMER_FULL] = "full",
	[CONSUMER_BACKING_OFF] = "backing off",
	[CONSUMER_WAITING_LOCK] = "waiting for lock",
};

/* A worker that is wanted and was never started is starting. */
static ConsumerState
state_of(const ConsumerEntry *entry, const ConsumerStatus *status)
{
	if (status->state == CONSUMER_STOPPED && entry->wanted &&
		status->error[0] == '\0')
		return CONSUMER_STARTING;
	return status->state;
}

/* Sets a column of type timestamptz; 0 is NULL. */
static void
set_timestamp(Datum *values, bool *nulls, int column, TimestampTz value)
{
	values[column] = TimestampTzGetDatum(value);
	nulls[column] = value == 0;
}

/* Fills the row of a worker. */
static void
fill_row(const ConsumerEntry *entry, const ConsumerStatus *status,
		 Datum *values, bool *nulls)
{
	TimestampTz now = GetCurrentTimestamp();

	memset(nulls, false, NCOLUMNS * sizeof(bool));
	values[COL_SUBSCRIPTION] = CStringGetTextDatum(entry->name);
	values[COL_WORKER] = Int32GetDatum(entry->worker);
	values[COL_PID] = Int32GetDatum(entry->pid);
	nulls[COL_PID] = entry->pid == 0;
	values[COL_STATE] = CStringGetTextDatum(state_names[state_of(entry, status)]);
	values[COL_PARTITIONS] = Int32GetDatum(status->partitions);
	values[COL_LAG] = Int64GetDatum(status->lag);
	nulls[COL_LAG] = status->lag < 0;
	values[COL_LAG_SECONDS] = Float8GetDatum(status->lag > 0 ?
											 Max(now - status->read_until, 0) / 1e6 : 0);
	nulls[COL_LAG_SECONDS] = status->lag < 0 ||
		(status->lag > 0 && status->read_until == 0);
	nulls[COL_ERROR] = status->error[0] == '\0';
	if (!nulls[COL_ERROR])
	{
		/* It may be of another encoding, or cut in the middle of a letter. */
		int			len = strlen(status->error);

		if (!pg_verifymbstr(status->error, len, true))
			values[COL_ERROR] = CStringGetTextDatum("see the server's log");
		else
			values[COL_ERROR] = CStringGetTextDatum(status->error);
	}
	set_timestamp(values, nulls, COL_ERROR_AT, status->error_at);
	set_timestamp(values, nulls, COL_STARTED_AT, status->started_at);
	set_timestamp(values, nulls, COL_STATE_SINCE, status->state_since);
}

/* Fills the row that tells that there was no room for all workers. */
static void
fill_crowded_row(Datum *values, bool *nulls)
{
	memset(nulls, true, NCOLUMNS * sizeof(bool));
	nulls[COL_STATE] = nulls[COL_ERROR] = false;
	values[COL_STATE] = CStringGetTextDatum(state_names[CONSUMER_STOPPED]);
	values[COL_ERROR] = CStringGetTextDatum("no room for all of its workers; raise outbox.max_consumers and restart the server");
}

/*
 * SQL function inbox.consumer_status() RETURNS SETOF record: one row for each
 * worker that the subscriptions of this database shall have, and one without a
 * subscription when there was no room for all.  Waits for nobody.
 */
Datum
outbox_consumer_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS];

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < consumers_size(); i++)
	{
		ConsumerEntry *entry = consumers_entry(i);
		ConsumerStatus status;

		if (entry->database != MyDatabaseId || !entry->wanted ||
			entry->worker == SCOUT_WORKER)
			continue;
		consumers_load(entry, &status);
		fill_row(entry, &status, values, nulls);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	if (consumers_crowded(MyDatabaseId))
	{
		fill_crowded_row(values, nulls);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
