/*-------------------------------------------------------------------------
 *
 * published_set_json.c
 *	  The record of the progress topic that tells a published set.
 *
 * It is a JSON object, so that people can read it:
 *
 *	 version			1, or 2 when there is a member that an older relay must
 *						not overlook: "retried", "released" or "catchup"
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
 *	 generation			of its transactional id (transactional_id.c); 0 if absent
 *	 replay				[job, last event, events], while a replay is under way
 *	 retried			positions of dead letters that the Kafka transaction has
 *						sent again, in runs like the extras
 *	 released			the same of held events
 *	 catchup			the members of CatchupProgress, while one is under way:
 *						what is published beside the set
 *
 * The first three are there in every version to come, so that every release can
 * tell a record that is newer than itself from one that is none.
 *
 * Anybody who may write to the topic can write anything.  So reading a record
 * says whether it is one, and raises no error.
 *
 * Pure: no I/O, no globals.  What is allocated is in the current memory
 * context.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/state/published_set_json.h"

#include <ctype.h>
#include <limits.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "core/compat.h"
#include "core/slice.h"
#include "relay/state/catchup_progress.h"
#include "relay/state/json_members.h"
#include "relay/state/published_set.h"

#define RECORD_VERSION 1
#define VITAL_VERSION 2			/* of a record with more than an older relay
								 * may overlook */

typedef enum Member
{
	MEMBER_VERSION, MEMBER_SYSTEM_IDENTIFIER, MEMBER_DATABASE, MEMBER_TIMELINE,
	MEMBER_LSN, MEMBER_SNAPSHOT, MEMBER_EXTRAS, MEMBER_INSTANCE,
	MEMBER_GENERATION, MEMBER_REPLAY, MEMBER_RETRIED, MEMBER_RELEASED,
	MEMBER_CATCHUP, MEMBER_COUNT
} Member;

static const char *const member_names[MEMBER_COUNT] = {
	"version", "system_identifier", "database", "timeline", "lsn", "snapshot",
	"extras", "instance", "generation", "replay", "retried", "released",
	"catchup"
};

typedef enum RoundMember
{
	ROUND_DATABASE_ID, ROUND_SNAPSHOT, ROUND_LSN, ROUND_SAFE_LSN, ROUND_FROM_ID,
	ROUND_LAST_ID, ROUND_DONE, ROUND_COUNT
} RoundMember;

static const char *const round_names[ROUND_COUNT] = {
	"database_id", "snapshot", "lsn", "safe_lsn", "from_id", "last_id", "done"
};

/* An object that is being read. */
typedef struct Reading
{
	const char *const *names;	/* of its members */
	Slice	   *values;
	const char *malformed;		/* the first that is; NULL when none is */
} Reading;

PG_FUNCTION_INFO_V1(outbox_progress_snapshot);

/* Writes ascending numbers, each once, as runs. */
static void
encode_runs(StringInfo buf, const uint64 *numbers, int n)
{
	uint64		last = 0;

	for (int i = 0; i < n;)
	{
		int			more = 0;

		while (i + more + 1 < n && numbers[i + more + 1] == numbers[i] + more + 1)
			more++;
		appendStringInfo(buf, i > 0 ? "," UINT64_FORMAT : UINT64_FORMAT,
						 numbers[i] - last);
		if (more > 0)
			appendStringInfo(buf, "+%d", more);
		last = numbers[i] + more;
		i += more + 1;
	}
}

static void
encode_extras(StringInfo buf, const PublishedSet *set)
{
	uint64	   *extras;
	int			n = published_set_extras(set, &extras);

	encode_runs(buf, extras, n);
	pfree(extras);
}

static void
encode_resent(StringInfo buf, const char *name, const ResentEvents *resent)
{
	if (resent->size == 0)
		return;
	appendStringInfo(buf, ", \"%s\": \"", name);
	encode_runs(buf, resent->positions, resent->size);
	appendStringInfoChar(buf, '"');
}

/* Writes how far a catch-up has come. */
static void
encode_catchup(StringInfo buf, const CatchupProgress *catchup)
{
	if (catchup == NULL)
		return;
	appendStringInfo(buf, ", \"catchup\": {\"database_id\": %d, \"snapshot\": \"%s\""
					 ", \"lsn\": \"%X/%X\", \"safe_lsn\": \"%X/%X\"",
					 catchup->database_id, catchup->snapshot,
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
					 set->catchup || set->retried.size > 0 || set->released.size > 0 ?
					 VITAL_VERSION : RECORD_VERSION,
					 set->system_identifier, set->database,
					 set->timeline, LSN_FORMAT_ARGS(set->lsn), set->snapshot);
	extras_start = buf->len;
	encode_extras(buf, set);
	if (buf->len - start > max_bytes)
		buf->len = extras_start;
	appendStringInfo(buf, "\", \"instance\": \"%s\"", set->instance);
	if (set->generation != 0)
		appendStringInfo(buf, ", \"generation\": %d", set->generation);
	if (set->replay_job != 0)
		appendStringInfo(buf, ", \"replay\": [" INT64_FORMAT ", " INT64_FORMAT
						 ", " INT64_FORMAT "]", set->replay_job,
						 set->replay_id, set->replay_sent);
	encode_resent(buf, member_names[MEMBER_RETRIED], &set->retried);
	encode_resent(buf, member_names[MEMBER_RELEASED], &set->released);
	encode_catchup(buf, set->catchup);
	appendStringInfoChar(buf, '}');
}

/* Notes that a member is malformed. */
static void
refuse(Reading *reading, int member)
{
	if (reading->malformed == NULL)
		reading->malformed = reading->names[member];
}

/*
 * A string or number as text; "" when it is neither.  No string of ours has
 * anything to escape.
 */
static char *
read_text(Reading *reading, int member)
{
	Slice		value = reading->values[member];

	if (value.data == NULL || value.data[0] == '{' || value.data[0] == '[' ||
		memchr(value.data, '\\', value.len) != NULL)
	{
		refuse(reading, member);
		return pstrdup("");
	}
	if (value.data[0] == '"')
		return pnstrdup(value.data + 1, value.len - 2);
	return pnstrdup(value.data, value.len);
}

/* The digits at *p, of that base, behind which it moves. */
static uint64
read_digits(Reading *reading, int member, const char **p, int base, uint64 max)
{
	char	   *end;
	uint64		number;

	if (!(base == 16 ? isxdigit((unsigned char) **p) :
		  isdigit((unsigned char) **p)))
	{
		refuse(reading, member);
		return 0;
	}
	errno = 0;
	number = strtoull(*p, &end, base);
	*p = end;
	if (errno == 0 && number <= max)
		return number;
	refuse(reading, member);
	return 0;
}

static uint64
read_number(Reading *reading, int member, uint64 max)
{
	const char *p = read_text(reading, member);
	uint64		number = read_digits(reading, member, &p, 10, max);

	if (*p != '\0')
		refuse(reading, member);
	return number;
}

/* The same for a number that may be negative. */
static int64
read_signed(Reading *reading, int member, const char *text)
{
	char	   *end;
	int64		number;

	errno = 0;
	number = strtoll(text, &end, 10);
	if (errno != 0 || end == text ||*end != '\0')
		refuse(reading, member);
	return number;
}

static int64
read_int64(Reading *reading, int member)
{
	return read_signed(reading, member, read_text(reading, member));
}

static XLogRecPtr
read_lsn(Reading *reading, int member)
{
	const char *p = read_text(reading, member);
	uint64		high = read_digits(reading, member, &p, 16, PG_UINT32_MAX);
	uint64		low = 0;

	if (*p == '/')
	{
		p++;
		low = read_digits(reading, member, &p, 16, PG_UINT32_MAX);
	}
	else
		refuse(reading, member);
	if (*p != '\0')
		refuse(reading, member);
	return high << 32 | low;
}

static char *
read_snapshot(Reading *reading, int member)
{
	char	   *snapshot = read_text(reading, member);

	if (published_set_snapshot_end(snapshot) == 0)
		refuse(reading, member);
	return snapshot;
}

/* The next run, at *p, of a list that begins at runs; it follows on *last. */
static int
read_run(Reading *reading, int member, const char *runs, const char **p,
		 uint64 *last)
{
	uint64		more = 0;

	if (*p != runs && *(*p)++ != ',')
		refuse(reading, member);
	*last += read_digits(reading, member, p, 10, PG_INT64_MAX);
	if (**p == '+')
	{
		(*p)++;
		more = read_digits(reading, member, p, 10, INT_MAX - 1);
	}
	if (*last > PG_INT64_MAX - more)
		refuse(reading, member);
	return (int) more + 1;
}

/* Reads the runs back; they come after the snapshot. */
static void
read_extras(Reading *reading, PublishedSet *set)
{
	const char *runs = read_text(reading, MEMBER_EXTRAS);
	const char *p = runs;
	uint64		xid = 0;
	uint64		end = published_set_snapshot_end(set->snapshot);

	while (*p && reading->malformed == NULL)
	{
		int			count = read_run(reading, MEMBER_EXTRAS, runs, &p, &xid);

		/* No two transactions of a database are farther apart. */
		if (set->nextras >= INT_MAX - count || xid + count - 1 > end + INT_MAX)
			refuse(reading, MEMBER_EXTRAS);
		if (reading->malformed)
			return;
		published_set_add(set, xid, CurrentMemoryContext);
		while (--count > 0)
			published_set_add(set, ++xid, CurrentMemoryContext);
	}
}

/* Reads the positions of events that were sent again, if there are any. */
static void
read_resent(Reading *reading, int member, ResentEvents *resent)
{
	const char *runs;
	const char *p;
	uint64		position = 0;

	if (reading->values[member].data == NULL)
		return;
	resent->positions = palloc(MAX_RESENT * sizeof(uint64));
	p = runs = read_text(reading, member);
	while (*p && reading->malformed == NULL)
	{
		int			count = read_run(reading, member, runs, &p, &position);

		if (count > MAX_RESENT - resent->size)
			refuse(reading, member);
		if (reading->malformed)
			return;
		resent->positions[resent->size++] = position;
		while (--count > 0)
			resent->positions[resent->size++] = ++position;
	}
}

/* Reads the member "catchup", if there is one. */
static void
read_catchup(Reading *reading, PublishedSet *set)
{
	Slice		values[ROUND_COUNT];
	Reading		members = {round_names, values, NULL};
	CatchupProgress *catchup;

	if (reading->values[MEMBER_CATCHUP].data == NULL)
		return;
	if (!json_members(reading->values[MEMBER_CATCHUP], round_names, ROUND_COUNT, values))
	{
		refuse(reading, MEMBER_CATCHUP);
		return;
	}
	catchup = palloc0(sizeof(CatchupProgress));
	catchup->database_id = (int32) read_int64(&members, ROUND_DATABASE_ID);
	catchup->snapshot = read_snapshot(&members, ROUND_SNAPSHOT);
	catchup->lsn = read_lsn(&members, ROUND_LSN);
	catchup->safe_lsn = read_lsn(&members, ROUND_SAFE_LSN);
	catchup->whole = true;
	catchup->from_id = read_int64(&members, ROUND_FROM_ID);
	catchup->last_id = read_int64(&members, ROUND_LAST_ID);
	catchup->done = read_number(&members, ROUND_DONE, PG_UINT64_MAX);
	set->catchup = catchup;
	if (members.malformed && reading->malformed == NULL)
		reading->malformed = members.malformed;
}

/* Reads the member "replay", if there is one. */
static void
read_replay(Reading *reading, PublishedSet *set)
{
	int64	   *fields[] = {&set->replay_job, &set->replay_id, &set->replay_sent};
	Slice		values[lengthof(fields)];

	if (reading->values[MEMBER_REPLAY].data == NULL)
		return;
	if (!json_elements(reading->values[MEMBER_REPLAY], lengthof(fields), values))
	{
		refuse(reading, MEMBER_REPLAY);
		return;
	}
	for (int i = 0; i < lengthof(fields); i++)
		*fields[i] = read_signed(reading, MEMBER_REPLAY,
								 pnstrdup(values[i].data, values[i].len));
}

/*
 * Reads a record.  Fills in the set and returns SET_READ; of a record whose
 * version is newer than those that we know, its version and database alone.
 * When it is malformed, *malformed says what of it is.
 */
SetForm
published_set_parse(PublishedSet *set, const char *record, int len,
					const char **malformed)
{
	Slice text = {record, len};
	Slice		values[MEMBER_COUNT];
	Reading		reading = {member_names, values, NULL};

	memset(set, 0, sizeof(*set));
	*malformed = "not an object";
	if (!json_members(text, member_names, MEMBER_COUNT, values))
		return SET_MALFORMED;
	set->version = (int) read_number(&reading, MEMBER_VERSION, INT_MAX);
	set->system_identifier = read_number(&reading, MEMBER_SYSTEM_IDENTIFIER, PG_UINT64_MAX);
	set->database = (Oid) read_number(&reading, MEMBER_DATABASE, OID_MAX);
	if (reading.malformed == NULL && set->version > VITAL_VERSION)
		return SET_NEWER;
	if (reading.malformed == NULL && set->version < RECORD_VERSION)
		refuse(&reading, MEMBER_VERSION);
	set->timeline = (TimeLineID) read_number(&reading, MEMBER_TIMELINE, PG_UINT32_MAX);
	set->lsn = read_lsn(&reading, MEMBER_LSN);
	set->snapshot = read_snapshot(&reading, MEMBER_SNAPSHOT);
	read_extras(&reading, set);
	strlcpy(set->instance, read_text(&reading, MEMBER_INSTANCE), sizeof(set->instance));
	if (values[MEMBER_GENERATION].data)
		set->generation = (int) read_number(&reading, MEMBER_GENERATION, INT_MAX - 1);
	read_replay(&reading, set);
	read_resent(&reading, MEMBER_RETRIED, &set->retried);
	read_resent(&reading, MEMBER_RELEASED, &set->released);
	read_catchup(&reading, set);
	*malformed = reading.malformed;
	return reading.malformed ? SET_MALFORMED : SET_READ;
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
	const char *malformed;

	switch (published_set_parse(&set, VARDATA_ANY(record),
								VARSIZE_ANY_EXHDR(record), &malformed))
	{
		case SET_READ:
			break;
		case SET_NEWER:
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("progress record has version %d, which this release of outbox does not know",
							set.version),
					 errhint("Install the release that wrote it, or a later one.")));
			break;
		case SET_MALFORMED:
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("malformed progress record: %s", malformed),
					 errdetail("It says which events are on Kafka, and somebody else has written it."),
					 errhint("Only relays may write to the progress topic.")));
			break;
	}
	PG_RETURN_DATUM(DirectFunctionCall1(pg_snapshot_in,
										CStringGetDatum(published_set_fold(&set))));
}
