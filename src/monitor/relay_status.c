/*-------------------------------------------------------------------------
 *
 * relay_status.c
 *	  outbox.stat_relay: a relay's status out of shared memory, and its slot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_database.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/replication_slot.h"
#include "kafka/producer/producer.h"
#include "registry/databases.h"
#include "registry/launcher_view.h"
#include "registry/relay_values.h"

PG_FUNCTION_INFO_V1(outbox_relay_status);

/* Columns of outbox.relay_status(), in order. */
enum
{
	COL_STATE,
	COL_PID,
	COL_SLOT,
	COL_RECEIVED,
	COL_CONFIRMED,
	COL_LAG_BYTES,
	COL_LAG_SECONDS,
	COL_EVENTS,
	COL_BYTES,
	COL_IN_FLIGHT,
	COL_RETRIES,
	COL_ROUND_TRIP,
	COL_ERROR,
	COL_ERROR_AT,
	COL_STARTED_AT,
	COL_LIBRDKAFKA,
	COL_CATCHUP_DONE,
	COL_CATCHUP_LEFT,
	COL_STATE_SINCE,
	COL_HELD_BYTES,
	COL_PINNED_BYTES,
	COL_PINNED_XID,
	COL_PINNED_PID,
	NCOLUMNS
};

static const char *
state_name(RelayState state)
{
	switch (state)
	{
		case RELAY_STOPPED:
			return "stopped";
		case RELAY_STARTING:
			return "starting";
		case RELAY_WAITING_CONFIGURATION:
			return "waiting for configuration";
		case RELAY_WAITING_KAFKA:
			return "waiting for kafka";
		case RELAY_CATCHING_UP:
			return "catching up";
		case RELAY_STREAMING:
			return "streaming";
		case RELAY_COPIED:
			return "copied";
		case RELAY_POLLING:
			return "polling";
		case RELAY_FENCED:
			return "fenced";
	}
	return "unknown";
}

/* Sets a column, leaving it NULL when there is no value. */
static void
set_lsn(Datum *values, bool *nulls, int column, XLogRecPtr lsn)
{
	nulls[column] = XLogRecPtrIsInvalid(lsn);
	values[column] = LSNGetDatum(lsn);
}

static void
set_time(Datum *values, bool *nulls, int column, TimestampTz time)
{
	nulls[column] = time == 0;
	values[column] = TimestampTzGetDatum(time);
}

/* How far Kafka is behind the database, in bytes of WAL and in seconds. */
static void
set_lag(Datum *values, bool *nulls, const RelayStatus *status)
{
	if (!XLogRecPtrIsInvalid(status->confirmed) && !RecoveryInProgress())
	{
		XLogRecPtr	now = GetXLogInsertRecPtr();

		nulls[COL_LAG_BYTES] = false;
		values[COL_LAG_BYTES] =
			Int64GetDatum(now > status->confirmed ? now - status->confirmed : 0);
	}
	if (status->state != RELAY_STOPPED)
	{
		double		lag = 0;

		if (status->oldest_commit != 0)
			lag = (GetCurrentTimestamp() - status->oldest_commit) / 1e6;
		nulls[COL_LAG_SECONDS] = false;
		values[COL_LAG_SECONDS] = Float8GetDatum(Max(lag, 0));
	}
}

/* The WAL that the slot holds, and what of it is done with. */
static void
set_held_wal(Datum *values, bool *nulls)
{
	XLogRecPtr	end = slot_wal_end();
	XLogRecPtr	restart;
	XLogRecPtr	confirmed;

	if (!slot_positions(MyDatabaseId, &restart, &confirmed))
		return;
	if (XLogRecPtrIsInvalid(confirmed) || confirmed > end)
		confirmed = end;
	nulls[COL_HELD_BYTES] = nulls[COL_PINNED_BYTES] = false;
	values[COL_HELD_BYTES] = Int64GetDatum(end > restart ? end - restart : 0);
	values[COL_PINNED_BYTES] =
		Int64GetDatum(confirmed > restart ? confirmed - restart : 0);
}

/* The transaction that pins the WAL, and its process unless it is prepared. */
static void
set_pinned_by(Datum *values, bool *nulls, TransactionId xid)
{
	int			pid = BackendXidGetPid(xid);

	nulls[COL_PINNED_XID] = !TransactionIdIsValid(xid);
	values[COL_PINNED_XID] = TransactionIdGetDatum(xid);
	nulls[COL_PINNED_PID] = pid == 0;
	values[COL_PINNED_PID] = Int32GetDatum(pid);
}

/*
 * An error as text.  It may have been cut off within a character, and what
 * brokers say may be in any encoding: bytes that are no text become "?".
 */
static text *
error_text(const char *error)
{
	char	   *copy = pstrdup(error);
	char	   *p = copy;

	for (;;)
	{
		p += pg_encoding_verifymbstr(GetDatabaseEncoding(), p, strlen(p));
		if (*p == '\0')
			return cstring_to_text(copy);
		*p++ = '?';
	}
}

static void
set_status(Datum *values, bool *nulls, RelayStatus *status, pid_t pid)
{
	nulls[COL_PID] = pid == 0;
	values[COL_PID] = Int32GetDatum(pid);
	nulls[COL_SLOT] = NameStr(status->slot)[0] == '\0';
	values[COL_SLOT] = NameGetDatum(&status->slot);
	set_lsn(values, nulls, COL_RECEIVED, status->received);
	set_lsn(values, nulls, COL_CONFIRMED, status->confirmed);
	set_lag(values, nulls, status);
	nulls[COL_EVENTS] = nulls[COL_BYTES] = false;
	values[COL_EVENTS] = Int64GetDatum(status->events);
	values[COL_BYTES] = Int64GetDatum(status->bytes);
	nulls[COL_IN_FLIGHT] = nulls[COL_RETRIES] = false;
	values[COL_IN_FLIGHT] = Int64GetDatum(status->in_flight);
	values[COL_RETRIES] = Int64GetDatum(status->retries);
	nulls[COL_ROUND_TRIP] = status->round_trip_us < 0;
	values[COL_ROUND_TRIP] = Float8GetDatum(status->round_trip_us / 1000.0);
	nulls[COL_ERROR] = status->error[0] == '\0';
	if (!nulls[COL_ERROR])
		values[COL_ERROR] = PointerGetDatum(error_text(status->error));
	set_time(values, nulls, COL_ERROR_AT, status->error_at);
	set_time(values, nulls, COL_STARTED_AT, status->started_at);
	set_time(values, nulls, COL_STATE_SINCE, status->state_since);
	nulls[COL_CATCHUP_DONE] = nulls[COL_CATCHUP_LEFT] = !status->catching_up;
	values[COL_CATCHUP_DONE] = Int64GetDatum(status->catchup_done);
	values[COL_CATCHUP_LEFT] = Int64GetDatum(status->catchup_left);
	set_pinned_by(values, nulls, status->pinned_by);
}

/* Is this a template database?  Those have no relay. */
static bool
is_template(void)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID,
										ObjectIdGetDatum(MyDatabaseId));
	bool		result = HeapTupleIsValid(tuple) &&
	((Form_pg_database) GETSTRUCT(tuple))->datistemplate;

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/* Why there cannot be a relay, or NULL. */
static const char *
absence_reason(void)
{
	if (!shmem_available())
		return "outbox is not in shared_preload_libraries; add it and restart the server";
	if (RecoveryInProgress())
		return "this server is a standby, and publishes when it is promoted";
	if (is_template())
		return "this is a template database, and those have no relay; ALTER DATABASE ... IS_TEMPLATE false and restart the server";
	if (shmem_full())
		return "no room for a relay in this database; raise outbox.max_databases and restart the server";
	return NULL;
}

/*
 * SQL function outbox.relay_status(): one row about this database's relay.
 * Takes locks for the time of a look, and waits for nobody who works.
 */
Datum
outbox_relay_status(PG_FUNCTION_ARGS)
{
	Datum		values[NCOLUMNS] = {0};
	bool		nulls[NCOLUMNS];
	TupleDesc	desc;
	RelayStatus status = {0};
	pid_t		pid = 0;
	const char *reason;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(nulls, true, sizeof(nulls));

	if (shmem_read_status(MyDatabaseId, &status, &pid))
		set_status(values, nulls, &status, pid);
	else if ((reason = absence_reason()) != NULL)
	{
		nulls[COL_ERROR] = false;
		values[COL_ERROR] = CStringGetTextDatum(reason);
		set_time(values, nulls, COL_STATE_SINCE, PgStartTime);
	}
	set_held_wal(values, nulls);
	nulls[COL_STATE] = false;
	values[COL_STATE] = CStringGetTextDatum(state_name(status.state));
	nulls[COL_LIBRDKAFKA] = false;
	values[COL_LIBRDKAFKA] = CStringGetTextDatum(producer_library_version());

	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc),
													  values, nulls)));
}
