/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  The arguments of inbox.subscribe() and its kin: what may be in them.
 *
 * Everything is refused in the caller's transaction, with the argument, the
 * value, and what is allowed.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/sql/arguments.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "core/slice.h"
#include "event/event_check.h"

#define NAME_MAX_LEN 63
#define LIST_MAX_ELEMENTS 10000
#define GROUP_ID_MAX_LEN 255

#define NAME_HINT \
	"The name of a subscription has 1 to %d of the characters a-z, A-Z, 0-9, \".\", \"_\" and \"-\"."

/* Raises an error when an argument that is needed is null. */
void
argument_required(const char *name, bool isnull)
{
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name),
				 errhint("Pass a value; an argument that has a default can be left out.")));
}

/* Raises an error when a subscription cannot have this name. */
void
check_name(const char *name)
{
	int			len = strlen(name);

	if (len == 0 || len > NAME_MAX_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("\"%s\" is not the name of a subscription", name),
				 errdetail("It has %d characters.",
						   pg_mbstrlen_with_len(name, len)),
				 errhint(NAME_HINT, NAME_MAX_LEN)));
	for (const char *p = name; *p; p += pg_mblen(p))
		if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", *p) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_NAME),
					 errmsg("\"%s\" is not the name of a subscription", name),
					 errdetail("It contains the character \"%.*s\".",
							   pg_mblen(p), p),
					 errhint(NAME_HINT, NAME_MAX_LEN)));
}

/* Raises an error when a pattern of topics is not a regular expression. */
static void
check_pattern(const char *pattern)
{
	int			len = strlen(pattern);
	pg_wchar   *wide = palloc((len + 1) * sizeof(pg_wchar));
	regex_t		compiled;
	int			result;

	len = pg_mb2wchar_with_len(pattern, wide, len);
	result = pg_regcomp(&compiled, wide, len, REG_ADVANCED, C_COLLATION_OID);
	if (result != REG_OKAY)
	{
		char		message[100];

		pg_regerror(result, &compiled, message, sizeof(message));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("\"%s\" in topics is not a regular expression", pattern),
				 errdetail("It begins with \"^\", so it is a pattern of topics. %c%s.",
						   pg_toupper((unsigned char) message[0]), message + 1),
				 errhint("Correct the pattern.")));
	}
	pg_regfree(&compiled);
	pfree(wide);
}

/* Raises an error when an element comes twice. */
static void
check_unique(const char *argument, char **elements, int n)
{
	char	  **sorted = palloc(n * sizeof(char *));

	memcpy(sorted, elements, n * sizeof(char *));
	qsort(sorted, n, sizeof(char *), pg_qsort_strcmp);
	for (int i = 1; i < n; i++)
		if (strcmp(sorted[i - 1], sorted[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s contains \"%s\" twice", argument, sorted[i]),
					 errhint("Take one of them out.")));
	pfree(sorted);
}

/* Raises an error when a list has more elements than anybody needs. */
static void
check_length(const char *argument, ArrayType *array)
{
	int			n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	if (n > LIST_MAX_ELEMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s has too many elements", argument),
				 errdetail("It has %d.", n),
				 strcmp(argument, "topics") == 0 ?
				 errhint("Allowed are %d; a pattern such as \"^orders[.]\" stands for any number of topics.",
						 LIST_MAX_ELEMENTS) :
				 errhint("Allowed are %d.", LIST_MAX_ELEMENTS)));
}

/*
 * The elements of a list, as C strings.  Raises an error when it is empty or
 * too long, or an element is null or comes twice.
 */
static char **
list_elements(const char *argument, ArrayType *array, int *n)
{
	Datum	   *values;
	bool	   *nulls;
	char	  **elements;

	check_length(argument, array);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, n);
	if (*n == 0 || ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(*n == 0 ? "%s must not be empty" :
						"%s must have one dimension", argument),
				 errhint("Pass an array such as ARRAY['%s'].",
						 strcmp(argument, "topics") == 0 ?
						 "orders" : "OrderCreated")));
	elements = palloc(*n * sizeof(char *));
	for (int i = 0; i < *n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain a null", argument),
					 errdetail("Element %d is null.", i + 1),
					 errhint("Take it out.")));
		elements[i] = TextDatumGetCString(values[i]);
	}
	check_unique(argument, elements, *n);
	return elements;
}

/* Raises an error unless all are names, or patterns of names, of topics. */
void
check_topics(ArrayType *topics)
{
	int			n;
	char	  **elements = list_elements("topics", topics, &n);

	for (int i = 0; i < n; i++)
	{
		Slice		topic = {elements[i], strlen(elements[i])};

		CHECK_FOR_INTERRUPTS();
		if (elements[i][0] == '^')
			check_pattern(elements[i]);
		else
			check_topic(topic);
	}
}

/* Raises an error unless these can be event types. */
void
check_event_types(ArrayType *types)
{
	int			n;
	char	  **elements = list_elements("filter_event_types", types, &n);

	for (int i = 0; i < n; i++)
		if (elements[i][0] == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("filter_event_types must not contain an empty name"),
					 errdetail("Element %d is empty.", i + 1),
					 errhint("Take it out; leave filter_event_types out to get all messages.")));
}

/* Raises an error when a consumer group cannot have this name. */
void
check_group_id(const char *group_id)
{
	int			len = strlen(group_id);
	bool		control = false;

	for (int i = 0; i < len; i++)
		control |= (unsigned char) group_id[i] < ' ' || group_id[i] == 0x7f;
	if (len == 0 || len > GROUP_ID_MAX_LEN || control)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("group_id is not the name of a consumer group"),
				 control ? errdetail("It contains a control character.") :
				 errdetail("It has %d bytes.", len),
				 errhint("Pass a name of 1 to %d bytes, or leave group_id out to get \"<database>.<name>\".",
						 GROUP_ID_MAX_LEN)));
}

/* Raises an error when a header cannot have this name. */
void
check_header(const char *argument, const char *name)
{
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", argument),
				 errhint("Pass the name of a header, or NULL for none.")));
}

/* Raises an error when this cannot be a field of a payload. */
void
check_field(const char *argument, const char *field)
{
	int			len = strlen(field);

	if (len == 0 || field[0] == '.' || field[len - 1] == '.' ||
		strstr(field, "..") != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a value of %s", field, argument),
				 errdetail("A part of it is empty."),
				 errhint("Pass the name of a member of the payload, or several with dots between them, such as \"meta.eventId\".")));
}

/* Raises an error when the id cannot come from the field, or has to. */
void
check_id_field(const char *dedupe, const char *id_field)
{
	if (strcmp(dedupe, "field") == 0 && id_field == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("dedupe \"field\" needs id_field"),
				 errhint("Pass the field of the payload that is the id, such as \"meta.eventId\".")));
	if (strcmp(dedupe, "offset") == 0 && id_field != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id_field cannot be used with dedupe \"offset\""),
				 errdetail("Topic, partition and offset are the id then."),
				 errhint("Leave one of them out.")));
}

/* Raises an error when the value is none of the choices. */
void
check_choice(const char *argument, const char *value,
			 const char *const *choices, int nchoices)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < nchoices; i++)
	{
		if (strcmp(value, choices[i]) == 0)
			return;
		appendStringInfo(&list, "%s\"%s\"", i == 0 ? "" :
						 i == nchoices - 1 ? " and " : ", ", choices[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" is not a value of %s", value, argument),
			 errhint("Allowed are %s.", list.data)));
}

/* Raises an error when the value is not in the range. */
void
check_range(const char *argument, int value, int min, int max)
{
	if (value < min || value > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is out of range", argument),
				 errdetail("It is %d.", value),
				 errhint("Allowed are %d to %d.", min, max)));
}

/* Raises an error when the interval is not in the range, told by the hint. */
void
check_interval(const char *argument, const Interval *value, int64 min_ms,
			   int64 max_ms, const char *hint)
{
	double		ms = value->time / 1000.0 +
	(value->day + (double) value->month * DAYS_PER_MONTH) *
	(SECS_PER_DAY * 1000.0);

	if (ms < min_ms || ms > max_ms)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is out of range", argument),
				 errdetail("It is \"%s\".",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   PointerGetDatum(value)))),
				 errhint("%s", hint)));
}

/*
 * A time that is written as text.  Raises an error, with the hint, when it is
 * none.
 */
TimestampTz
parse_time(const char *argument, const char *value, const char *hint)
{
	MemoryContext context = CurrentMemoryContext;
	volatile TimestampTz time = 0;

	PG_TRY();
	{
		time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
													   CStringGetDatum(value),
													   ObjectIdGetDatum(InvalidOid),
													   Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_DATA_EXCEPTION)
		{
			error->detail = pstrdup(error->message);
			error->detail[0] = pg_toupper((unsigned char) error->detail[0]);
			error->detail = psprintf("%s.", error->detail);
			error->message = psprintf("\"%s\" is not a value of %s",
									  value, argument);
			error->hint = pstrdup(hint);
		}
		FlushErrorState();
		ReThrowError(error);
	}
	PG_END_TRY();
	return time;
}

/*
 * Where to start, as it is stored: a word, or a time in ISO 8601.  Raises an
 * error when it is neither.
 */
char *
normalize_start(const char *start)
{
	static const char *const hint =
	"Allowed are \"earliest\", \"latest\", or a time such as \"2030-01-31 12:00:00+00\".";
	TimestampTz time;
	struct pg_tm tm;
	fsec_t		fsec;

	if (strcmp(start, "earliest") == 0 || strcmp(start, "latest") == 0)
		return pstrdup(start);
	time = parse_time("start", start, hint);
	if (TIMESTAMP_NOT_FINITE(time) ||
		time < (UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY ||
		timestamp2tm(time, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a value of start", start),
				 errdetail("Times in Kafka begin with 1970 and have an end."),
				 errhint("%s", hint)));
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year,
					tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
					(int) fsec);
}
