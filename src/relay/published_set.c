/*-------------------------------------------------------------------------
 *
 * published_set.c
 *	  The exact set of transactions whose events are on Kafka, as a record of
 *	  the progress topic tells it.
 *
 * The set is what a snapshot shows, and the "extras": transactions that were
 * published after the snapshot was taken, or whose commit record was written
 * when they still ran for the snapshot.
 *
 * A record is a JSON object, so that people can read it:
 *
 *	 version			1, or 2 when there is a member that an older relay must
 *						not overlook: "catchup"
 *	 system_identifier	of the cluster, as text
 *	 database			oid
 *	 timeline, lsn		everything committed up to there is in the set, and
 *						nothing that was committed after it
 *	 snapshot			a pg_snapshot
 *	 extras				transactions as runs, comma-separated, each "gap" or
 *						"gap+more": a gap is counted from the run before
 *						(from 0 for the first), "more" is how many directly
 *						follow
 *	 instance			the relay that wrote it, a uuid
 *	 replay				[job, last event, events], while a replay is under way
 *	 catchup			the members of CatchupProgress, while one is under way:
 *						what is published beside the set
 *
 * Pure: no I/O, no globals.  What is allocated is in the current memory
 * context unless another is named.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/published_set.h"

#include <limits.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/pg_lsn.h"

#include "relay/xids.h"

#define RECORD_VERSION 1
#define CATCHUP_VERSION 2		/* of a record that tells of a catch-up */
#define INITIAL_EXTRAS 64

/* A pg_snapshot in parts; xip in ascending order. */
typedef struct Parts
{
	uint64		xmin;
	uint64		xmax;
	uint64	   *xip;
	int			nxip;
} Parts;

PG_FUNCTION_INFO_V1(outbox_progress_snapshot);

/* The error for a record that is none of ours. */
static void
raise_malformed(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("malformed progress record: %s", what),
			 errdetail("It says which events are on Kafka, and somebody else has written it."),
			 errhint("Only relays may write to the progress topic.")));
}

/* Reads a number and moves on behind it. */
static uint64
parse_number(const char **p, const char *what)
{
	char	   *end;
	uint64		number;

	if (**p < '0' || **p > '9')
		raise_malformed(what);
	number = strtoull(*p, &end, 10);
	*p = end;
	return number;
}

static void
parse_snapshot(Parts *parts, const char *snapshot)
{
	const char *p = snapshot;
	int			commas = 1;

	for (const char *c = snapshot; *c; c++)
		commas += *c == ',';
	parts->xip = MemoryContextAllocHuge(CurrentMemoryContext,
										commas * sizeof(uint64));
	parts->nxip = 0;
	parts->xmin = parse_number(&p, "snapshot");
	if (*p++ != ':')
		raise_malformed("snapshot");
	parts->xmax = parse_number(&p, "snapshot");
	if (*p++ != ':')
		raise_malformed("snapshot");
	while (*p)
	{
		if (parts->nxip > 0 && *p++ != ',')
			raise_malformed("snapshot");
		parts->xip[parts->nxip++] = parse_number(&p, "snapshot");
	}
}

/* Does the snapshot show the transaction, given that it has ended? */
static bool
parts_show(const Parts *parts, uint64 xid)
{
	if (xid < parts->xmin)
		return true;
	if (xid >= parts->xmax)
		return false;
	return bsearch(&xid, parts->xip, parts->nxip, sizeof(uint64),
				   compare_xids) == NULL;
}

/*
 * Adds a transaction; context is for the list of extras.  A transaction that
 * comes several times in a row is added once.
 */
void
published_set_add(PublishedSet *set, uint64 xid, MemoryContext context)
{
	if (set->nextras > 0 && set->extras[set->nextras - 1] == xid)
		return;
	if (set->nextras == set->size)
	{
		int			size = Max(set->size * 2, INITIAL_EXTRAS);

		if (set->extras)
			set->extras = repalloc_huge(set->extras, size * sizeof(uint64));
		else
			set->extras = MemoryContextAlloc(context, size * sizeof(uint64));
		set->size = size;
	}
	set->extras[set->nextras++] = xid;
}

/*
 * Replaces the snapshot, whose text is copied to context, by a later one that
 * shows nothing but what is in the set, and drops the extras that it shows.
 */
void
published_set_rebase(PublishedSet *set, const char *snapshot,
					 MemoryContext context)
{
	char	   *old = set->snapshot;
	Parts		parts;
	int			kept = 0;

	parse_snapshot(&parts, snapshot);
	for (int i = 0; i < set->nextras; i++)
		if (!parts_show(&parts, set->extras[i]))
			set->extras[kept++] = set->extras[i];
	set->nextras = kept;
	pfree(parts.xip);
	set->snapshot = MemoryContextStrdup(context, snapshot);
	if (old)
		pfree(old);
}

/* The extras in ascending order, each once; returns their number. */
static int
sorted_extras(const PublishedSet *set, uint64 **result)
{
	int			n = 0;
	uint64	   *extras = MemoryContextAllocHuge(CurrentMemoryContext,
												(set->nextras + 1) * sizeof(uint64));

	if (set->nextras > 0)
		memcpy(extras, set->extras, set->nextras * sizeof(uint64));
	qsort(extras, set->nextras, sizeof(uint64), compare_xids);
	for (int i = 0; i < set->nextras; i++)
		if (n == 0 || extras[n - 1] != extras[i])
			extras[n++] = extras[i];
	*result = extras;
	return n;
}

/*
 * The set as one pg_snapshot: transactions between the extras count as
 * running.
 */
char *
published_set_fold(const PublishedSet *set)
{
	Parts		parts;
	uint64	   *extras;
	int			nextras = sorted_extras(set, &extras);
	StringInfoData buf;
	StringInfoData running;
	uint64		xmax;
	uint64		xmin = 0;
	int			next = 0;

	parse_snapshot(&parts, set->snapshot);
	xmax = parts.xmax;
	if (nextras > 0)
		xmax = Max(xmax, extras[nextras - 1] + 1);
	initStringInfo(&running);
	for (int i = 0; i < parts.nxip; i++)
	{
		if (bsearch(&parts.xip[i], extras, nextras, sizeof(uint64), compare_xids))
			continue;
		xmin = xmin ? xmin : parts.xip[i];
		appendStringInfo(&running, running.len > 0 ? "," UINT64_FORMAT : UINT64_FORMAT,
						 parts.xip[i]);
	}
	for (uint64 xid = parts.xmax; xid < xmax; xid++)
	{
		while (next < nextras && extras[next] < xid)
			next++;
		if (next < nextras && extras[next] == xid)
			continue;
		xmin = xmin ? xmin : xid;
		appendStringInfo(&running, running.len > 0 ? "," UINT64_FORMAT : UINT64_FORMAT,
						 xid);
	}
	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT ":" UINT64_FORMAT ":%s",
					 xmin ? xmin : xmax, xmax, running.data);
	pfree(running.data);
	pfree(extras);
	pfree(parts.xip);
	return buf.data;
}

/* Writes the extras as runs. */
static void
encode_extras(StringInfo buf, const PublishedSet *set)
{
	uint64	   *extras;
	int			n = sorted_extras(set, &extras);
	uint64		last = 0;

	for (int i = 0; i < n;)
	{
		int			more = 0;

		while (i + more + 1 < n && extras[i + more + 1] == extras[i] + more + 1)
			more++;
		appendStringInfo(buf, i > 0 ? "," UINT64_FORMAT : UINT64_FORMAT,
						 extras[i] - last);
		if (more > 0)
			appendStringInfo(buf, "+%d", more);
		last = extras[i] + more;
		i += more + 1;
	}
	pfree(extras);
}

/* Writes how far a catch-up has come. */
static void
encode_catchup(StringInfo buf, const CatchupProgress *catchup)
{
	if (catchup == NULL)
		return;
	appendStringInfo(buf, ", \"catchup\": {\"home\": %d, \"snapshot\": \"%s\""
					 ", \"lsn\": \"%X/%X\", \"safe_lsn\": \"%X/%X\"",
					 catchup->home, catchup->snapshot,
					 LSN_FORMAT_ARGS(catchup->lsn),
					 LSN_FORMAT_ARGS(catchup->safe_lsn));
	appendStringInfo(buf, ", \"from_id\": " INT64_FORMAT ", \"last_id\": "
					 INT64_FORMAT ", \"done\": " UINT64_FORMAT "}",
					 catchup->from_id, catchup->last_id, catchup->done);
}

/*
 * Appends the record of a set.  Extras that would make it longer than
 * max_bytes are left out: then only the position is exact, and a relay that
 * loses its slot at that moment repeats them.
 */
void
published_set_encode(StringInfo buf, const PublishedSet *set, int max_bytes)
{
	int			start = buf->len;
	int			extras_start;

	appendStringInfo(buf, "{\"version\": %d, \"system_identifier\": \"" UINT64_FORMAT
					 "\", \"database\": %u, \"timeline\": %u, \"lsn\": \"%X/%X\""
					 ", \"snapshot\": \"%s\", \"extras\": \"",
					 set->catchup ? CATCHUP_VERSION : RECORD_VERSION,
					 set->system_identifier, set->database,
					 set->timeline, LSN_FORMAT_ARGS(set->lsn), set->snapshot);
	extras_start = buf->len;
	encode_extras(buf, set);
	if (buf->len - start > max_bytes)
		buf->len = extras_start;
	appendStringInfo(buf, "\", \"instance\": \"%s\"", set->instance);
	if (set->replay_job != 0)
		appendStringInfo(buf, ", \"replay\": [" INT64_FORMAT ", " INT64_FORMAT
						 ", " INT64_FORMAT "]", set->replay_job,
						 set->replay_id, set->replay_sent);
	encode_catchup(buf, set->catchup);
	appendStringInfoChar(buf, '}');
}

/* Reads the runs back. */
static void
decode_extras(PublishedSet *set, const char *runs)
{
	const char *p = runs;
	uint64		xid = 0;

	while (*p)
	{
		uint64		more = 0;

		if (p != runs && *p++ != ',')
			raise_malformed("extras");
		xid += parse_number(&p, "extras");
		if (*p == '+')
		{
			p++;
			more = parse_number(&p, "extras");
		}
		if (more > INT_MAX || set->nextras + more >= INT_MAX)
			raise_malformed("extras");
		published_set_add(set, xid, CurrentMemoryContext);
		while (more-- > 0)
			published_set_add(set, ++xid, CurrentMemoryContext);
	}
}

/* A member of the object as text; raises an error when it is missing. */
static char *
member_text(JsonbContainer *object, const char *name)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name, strlen(name),
													 NULL);

	if (value && value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	if (value && value->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value->val.numeric)));
	raise_malformed(name);
	return NULL;				/* keep the compiler quiet */
}

static uint64
member_number(JsonbContainer *object, const char *name)
{
	const char *p = member_text(object, name);
	uint64		number = parse_number(&p, name);

	if (*p != '\0')
		raise_malformed(name);
	return number;
}

/* The same for a number that may be negative. */
static int64
member_int64(JsonbContainer *object, const char *name)
{
	return DatumGetInt64(DirectFunctionCall1(int8in,
											 CStringGetDatum(member_text(object, name))));
}

static XLogRecPtr
member_lsn(JsonbContainer *object, const char *name)
{
	return DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
										   CStringGetDatum(member_text(object, name))));
}

/* Reads the member "catchup", if there is one. */
static void
decode_catchup(PublishedSet *set, JsonbContainer *object)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, "catchup",
													 strlen("catchup"), NULL);
	CatchupProgress *catchup;
	JsonbContainer *members;
	Parts		parts;

	if (value == NULL)
		return;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		raise_malformed("catchup");
	members = value->val.binary.data;
	catchup = palloc0(sizeof(CatchupProgress));
	catchup->home = (int32) member_int64(members, "home");
	catchup->snapshot = member_text(members, "snapshot");
	parse_snapshot(&parts, catchup->snapshot);
	catchup->lsn = member_lsn(members, "lsn");
	catchup->safe_lsn = member_lsn(members, "safe_lsn");
	catchup->whole = true;
	catchup->from_id = member_int64(members, "from_id");
	catchup->last_id = member_int64(members, "last_id");
	catchup->done = member_number(members, "done");
	set->catchup = catchup;
}

/* Reads the member "replay", if there is one. */
static void
decode_replay(PublishedSet *set, JsonbContainer *object)
{
	JsonbValue *array = getKeyJsonValueFromContainer(object, "replay",
													 strlen("replay"), NULL);
	int64	   *fields[] = {&set->replay_job, &set->replay_id, &set->replay_sent};

	if (array == NULL)
		return;
	if (array->type != jbvBinary || !JsonContainerIsArray(array->val.binary.data))
		raise_malformed("replay");
	for (int i = 0; i < lengthof(fields); i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array->val.binary.data, i);

		if (value == NULL || value->type != jbvNumeric)
			raise_malformed("replay");
		*fields[i] = DatumGetInt64(DirectFunctionCall1(numeric_int8,
													   NumericGetDatum(value->val.numeric)));
	}
}

/*
 * Reads a record.  Raises an error when it is malformed.
 */
void
published_set_decode(PublishedSet *set, const char *record, int len)
{
	char	   *json = pnstrdup(record, len);
	Jsonb	   *jsonb = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														   CStringGetDatum(json)));
	JsonbContainer *object = &jsonb->root;
	uint64		version;
	Parts		parts;

	memset(set, 0, sizeof(*set));
	if (!JsonContainerIsObject(object))
		raise_malformed("not an object");
	version = member_number(object, "version");
	if (version != RECORD_VERSION && version != CATCHUP_VERSION)
		raise_malformed("version");
	set->system_identifier = member_number(object, "system_identifier");
	set->database = (Oid) member_number(object, "database");
	set->timeline = (TimeLineID) member_number(object, "timeline");
	set->lsn = member_lsn(object, "lsn");
	set->snapshot = member_text(object, "snapshot");
	parse_snapshot(&parts, set->snapshot);
	decode_extras(set, member_text(object, "extras"));
	strlcpy(set->instance, member_text(object, "instance"),
			sizeof(set->instance));
	decode_replay(set, object);
	decode_catchup(set, object);
}

/*
 * SQL function outbox.progress_snapshot(record text) RETURNS pg_snapshot: the
 * transactions whose events a record of the progress topic says are on Kafka,
 * not counting a catch-up that was under way.
 */
Datum
outbox_progress_snapshot(PG_FUNCTION_ARGS)
{
	text	   *record = PG_GETARG_TEXT_PP(0);
	PublishedSet set;

	published_set_decode(&set, VARDATA_ANY(record), VARSIZE_ANY_EXHDR(record));
	PG_RETURN_DATUM(DirectFunctionCall1(pg_snapshot_in,
										CStringGetDatum(published_set_fold(&set))));
}
