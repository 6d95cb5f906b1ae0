/*-------------------------------------------------------------------------
 *
 * subscription_row.c
 *	  inbox.subscription as scouts and consumers read it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/subscription/subscription_row.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "inbox/message/identity_rules.h"
#include "inbox/message/message_identity.h"
#include "inbox/subscription/handler_lookup.h"
#include "inbox/subscription/subscription.h"
#include "kafka/consumer/consumer.h"
#include "registry/discovery.h"

#define OF_RENAMED_ROLES \
	" WHERE r.oid OPERATOR(pg_catalog.=) s.role_id" \
	" AND s.database_id OPERATOR(pg_catalog.=) outbox.database_id()" \
	" AND s.role_name OPERATOR(pg_catalog.<>) r.rolname"

/* Subscriptions of such roles that nobody else has locked. */
#define FREE_ROWS \
	"SELECT s.name, r.rolname FROM inbox.subscription s, pg_catalog.pg_roles r" \
	OF_RENAMED_ROLES " FOR NO KEY UPDATE OF s SKIP LOCKED"

/*
 * Notes how roles that have subscriptions are called by now: in a copy of the
 * database they are found by that, and their former names may be others'.  Only
 * if there is anything to note, since that makes workers look.  Does not wait for
 * who has locked a subscription, such as by inbox.seek(), and returns false then: it
 * is to be done again.  Runs a transaction of its own.
 */
bool
subscription_note_role_names(void)
{
	uint64		renamed;

	worker_begin_sql();
	(void) worker_run_sql("SELECT FROM inbox.subscription s, pg_catalog.pg_roles r"
						  OF_RENAMED_ROLES, 0, NULL, NULL, SPI_OK_SELECT);
	renamed = SPI_processed;
	if (renamed > 0 && worker_run_sql(FREE_ROWS, 0, NULL, NULL, SPI_OK_SELECT))
	{
		(void) worker_run_sql("WITH free AS MATERIALIZED (" FREE_ROWS ")"
							  " UPDATE inbox.subscription s SET role_name = f.rolname FROM free f"
							  " WHERE s.name OPERATOR(pg_catalog.=) f.name",
							  0, NULL, NULL, SPI_OK_UPDATE);
		renamed -= Min(renamed, SPI_processed);
	}
	worker_commit_sql();
	return renamed == 0;
}

/* The row that is read, one column after the other. */
typedef struct RowReader
{
	HeapTuple	tuple;
	TupleDesc	desc;
	int			column;
	bool		isnull;			/* was the last one NULL? */
} RowReader;

static Datum
next_datum(RowReader *row)
{
	return SPI_getbinval(row->tuple, row->desc, ++row->column, &row->isnull);
}

/* A text in TopMemoryContext, or NULL. */
static char *
next_text(RowReader *row)
{
	char	   *value = SPI_getvalue(row->tuple, row->desc, ++row->column);

	row->isnull = value == NULL;
	return value ? MemoryContextStrdup(TopMemoryContext, value) : NULL;
}

/* A text[] in TopMemoryContext, or NULL; *n is its length. */
static char **
next_texts(RowReader *row, int *n)
{
	Datum		datum = next_datum(row);
	Datum	   *elements;
	char	  **texts;

	*n = 0;
	if (row->isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(datum), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, n);
	texts = MemoryContextAlloc(TopMemoryContext, sizeof(char *) * Max(*n, 1));
	for (int i = 0; i < *n; i++)
		texts[i] = MemoryContextStrdup(TopMemoryContext,
									   TextDatumGetCString(elements[i]));
	return texts;
}

/* Sets the two meanings of "isolation": PostgreSQL's and Kafka's. */
static void
set_isolation(Subscription *subscription, const char *isolation)
{
	subscription->xact_isolation = XACT_READ_COMMITTED;
	subscription->kafka_isolation = "read_committed";
	if (strcmp(isolation, "read_uncommitted") == 0)
		subscription->kafka_isolation = "read_uncommitted";
	else if (strcmp(isolation, "repeatable_read") == 0)
		subscription->xact_isolation = XACT_REPEATABLE_READ;
	else if (strcmp(isolation, "serializable") == 0)
		subscription->xact_isolation = XACT_SERIALIZABLE;
}

/* Which function of its name the handler is, of a boolean or NULL. */
static HandlerKind
next_handler_kind(RowReader *row)
{
	bool		takes_array = DatumGetBool(next_datum(row));

	if (row->isnull)
		return HANDLER_OF_ANY;
	return takes_array ? HANDLER_OF_MANY : HANDLER_OF_ONE;
}

/* The name of a header as Kafka has it, in TopMemoryContext, or NULL. */
static char *
next_header(RowReader *row)
{
	char	   *value = next_text(row);
	char	   *converted;

	if (value == NULL)
		return NULL;
	converted = pg_server_to_any(value, strlen(value), PG_UTF8);
	return converted == value ? value :
		MemoryContextStrdup(TopMemoryContext, converted);
}

/* Reads a column that names a field of payloads. */
static void
next_field(FieldRule *rule, const char *argument, RowReader *row)
{
	message_identity_set_field(rule, argument, next_text(row), TopMemoryContext);
}

/* Reads the columns about what identifies messages. */
static void
read_identity(IdentityRules *rules, RowReader *row)
{
	char	   *dedupe = next_text(row);

	rules->by_position = strcmp(dedupe, "offset") == 0;
	rules->remembered = strcmp(dedupe, "none") != 0;
	rules->id_header = next_header(row);
	rules->type_header = next_header(row);
	next_field(&rules->id_field, "id_field", row);
	next_field(&rules->aggregate_id_field, "aggregate_id_field", row);
	next_field(&rules->type_field, "type_field", row);
	rules->per_topic = DatumGetBool(next_datum(row));
	rules->conflicts_fail = DatumGetBool(next_datum(row));
}

/* Reads the columns of LOAD_QUERY. */
static void
read_row(Subscription *subscription, RowReader *row)
{
	char	   *ordering;

	subscription->topics = next_texts(row, &subscription->ntopics);
	subscription->handler = next_text(row);
	subscription->handler_kind = next_handler_kind(row);
	subscription->role = DatumGetObjectId(next_datum(row));
	subscription->role_name = next_text(row);
	subscription->search_path = next_text(row);
	subscription->server = next_text(row);
	subscription->group = next_text(row);
	set_isolation(subscription, next_text(row));
	subscription->start_ms = DatumGetInt64(next_datum(row));
	if (row->isnull)
		subscription->start_ms = CONSUMER_EARLIEST;
	subscription->max_attempts = DatumGetInt32(next_datum(row));
	subscription->backoff_ms = DatumGetInt64(next_datum(row));
	ordering = next_text(row);
	subscription->ordering = strcmp(ordering, "key") == 0 ? ORDERING_KEY :
		strcmp(ordering, "partition") == 0 ? ORDERING_PARTITION : ORDERING_NONE;
	subscription->stops = DatumGetBool(next_datum(row));
	subscription->batch_size = DatumGetInt32(next_datum(row));
	subscription->workers = DatumGetInt32(next_datum(row));
	subscription->event_types = next_texts(row, &subscription->nevent_types);
	subscription->keeps = DatumGetBool(next_datum(row));
	subscription->timeout_ms = DatumGetInt64(next_datum(row));
	subscription->batch_time_ms = DatumGetInt64(next_datum(row));
	read_identity(&subscription->identity, row);
	subscription->generation = DatumGetInt64(next_datum(row));
}

#define MILLISECONDS(value) \
	"(EXTRACT(epoch FROM " value ") OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8"

#define LOAD_QUERY \
	"SELECT topics, handler, takes_array, coalesce(r.oid, 0), role_name," \
	" inbox.role_search_path(r.oid), server," \
	" coalesce(group_id, pg_catalog.current_database() OPERATOR(pg_catalog.||) '.'" \
	"  OPERATOR(pg_catalog.||) s.name)," \
	" isolation," \
	" CASE WHEN start OPERATOR(pg_catalog.=) 'earliest' THEN NULL" \
	"  WHEN start OPERATOR(pg_catalog.=) 'latest' THEN " MILLISECONDS("created_at") \
	"  ELSE " MILLISECONDS("start::pg_catalog.timestamptz") " END," \
	" max_attempts, " MILLISECONDS("retry_backoff") ", ordering," \
	" on_failure OPERATOR(pg_catalog.=) 'stop', batch_size, workers," \
	" filter_event_types," \
	" keep IS NULL OR keep OPERATOR(pg_catalog.>) '0'::pg_catalog.interval," \
	MILLISECONDS("handler_timeout") ", " MILLISECONDS("batch_time") "," \
	" dedupe, id_header, type_header, id_field, aggregate_id_field, type_field," \
	" dedupe_scope OPERATOR(pg_catalog.=) 'topic'," \
	" on_conflict OPERATOR(pg_catalog.=) 'error', " GENERATION \
	" FROM inbox.subscription s" \
	" LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) s.role_id" \
	" WHERE s.name OPERATOR(pg_catalog.=) $1 AND" IS_ACTIVE

/*
 * Reads a subscription into TopMemoryContext; NULL when it has gone, or shall
 * not work.  Runs a transaction of its own.
 */
Subscription *
subscription_subscription(const char *name)
{
	Subscription *subscription = NULL;
	Oid			types[1] = {TEXTOID};
	Datum		args[1];

	worker_begin_sql();
	args[0] = CStringGetTextDatum(name);
	if (SPI_execute_with_args(LOAD_QUERY, 1, types, args, NULL, true, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read inbox.subscription");
	if (SPI_processed == 1)
	{
		RowReader	row = {SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 0, false};

		subscription = MemoryContextAllocZero(TopMemoryContext,
											  sizeof(Subscription));
		subscription->name = MemoryContextStrdup(TopMemoryContext, name);
		read_row(subscription, &row);
	}
	worker_commit_sql();
	return subscription;
}

/*
 * Is the subscription still as it was read, and shall it work?  By what has
 * committed until now, in the transaction that is running.
 */
bool
subscription_is_unchanged(const Subscription *subscription)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		args[2] = {CStringGetTextDatum(subscription->name),
	Int64GetDatum(subscription->generation)};

	if (SPI_execute_with_args("SELECT FROM inbox.subscription"
							  " WHERE name OPERATOR(pg_catalog.=) $1"
							  " AND " GENERATION " OPERATOR(pg_catalog.=) $2"
							  " AND" IS_ACTIVE, 2, types, args, NULL, false, 1) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not read inbox.subscription");
	return SPI_processed == 1;
}

/*
 * The same in a transaction of its own.
 */
bool
subscription_is_current(const Subscription *subscription)
{
	bool		current;

	if (!worker_extension_exists())
		return false;
	worker_begin_sql();
	current = subscription_is_unchanged(subscription);
	worker_commit_sql();
	return current;
}
