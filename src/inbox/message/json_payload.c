/*-------------------------------------------------------------------------
 *
 * json_payload.c
 *	  Looks into payloads that should be JSON.
 *
 * PostgreSQL's own functions do it.  They raise an error where a text is no
 * JSON, and here that is an answer.  They hold nothing but memory, so the error
 * needs no subtransaction to be forgotten.
 *
 * An escape such as \u0000, or half of a surrogate pair, is JSON, but nothing
 * that text can hold.  One anywhere in a payload makes these functions refuse
 * all of it, though somewhere else is the member that is asked for.  So then
 * they are asked once more, about a copy that has another character there.
 *
 * Only type json is used: jsonb would convert all numbers, which takes longer
 * and is not possible for all.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/message/json_payload.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "core/utf8.h"

/* Stands for escapes that text cannot hold: the character SUBSTITUTE. */
#define SUBSTITUTE '\x1a'
#define SUBSTITUTE_ESCAPE "\\u001a"

/* Bytes of an explanation that are shown: it may hold a long part of the text. */
#define MAX_DETAIL 200

/*
 * Is the error one about what the text is?  What is too large for memory as
 * PostgreSQL manages it is an internal error.
 */
static bool
is_about_text(int sqlstate)
{
	int			category = ERRCODE_TO_CATEGORY(sqlstate);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		sqlstate == ERRCODE_INTERNAL_ERROR ||
		category == ERRCODE_FEATURE_NOT_SUPPORTED;
}

/*
 * Calls a function of PostgreSQL with two arguments; those that take fewer
 * ignore the rest.  Returns NULL when it succeeded, else the error, in the
 * current memory context.
 */
static ErrorData *
try_function(PGFunction function, Datum a, Datum b, Datum *result, bool *isnull)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		LOCAL_FCINFO(fcinfo, 2);

		InitFunctionCallInfoData(*fcinfo, NULL, 2, InvalidOid, NULL, NULL);
		fcinfo->args[0].value = a;
		fcinfo->args[0].isnull = false;
		fcinfo->args[1].value = b;
		fcinfo->args[1].isnull = false;
		*result = function(fcinfo);
		*isnull = fcinfo->isnull;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!is_about_text(error->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}

/*
 * Is a payload, which is text in the database's encoding, JSON?  Also when jsonb
 * cannot hold it.
 */
bool
json_is_valid(char *payload)
{
	Datum		result;
	bool		isnull;

	return try_function(json_in, CStringGetDatum(payload), (Datum) 0,
						&result, &isnull) == NULL;
}

/* Can text of the database hold what an escape of four digits says? */
static bool
is_translatable(const char *digits)
{
	unsigned int c;
	unsigned char character[4];

	if (sscanf(digits, "%4x", &c) != 1)
		return true;
	if (c == 0 || is_utf16_surrogate_first(c) || is_utf16_surrogate_second(c))
		return false;
	if (c <= 0x7f || GetDatabaseEncoding() == PG_UTF8)
		return true;
	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		return false;
	unicode_to_utf8(c, character);
	return utf8_to_database((char *) character, pg_utf_mblen(character)) != NULL;
}

/* A copy of JSON that has SUBSTITUTE where text cannot hold an escape. */
static char *
substitute_escapes(const char *json)
{
	char	   *copy = pstrdup(json);

	for (char *p = copy; (p = strchr(p, '\\')) != NULL && p[1] != '\0'; p += 2)
		if (p[1] == 'u' && !is_translatable(p + 2))
			memcpy(p, SUBSTITUTE_ESCAPE, strlen(SUBSTITUTE_ESCAPE));
	return copy;
}

/* An error message, with as much of what explains it as is of use. */
static char *
error_text(const ErrorData *error)
{
	int			len;

	if (error->detail == NULL)
		return pstrdup(error->message);
	len = strlen(error->detail);
	if (len <= MAX_DETAIL)
		return psprintf("%s: %s", error->message, error->detail);
	len = pg_mbcliplen(error->detail, len, MAX_DETAIL);
	return psprintf("%s: %.*s...", error->message, len, error->detail);
}

/*
 * Finds the last value at a path, as json's operator #> does, in a payload that
 * is text in the database's encoding.  For JSON_FIELD_TEXT value becomes that value: a string
 * without its quotes and escapes, or a number as it is written.  For the
 * errors, JSON_FIELD_UNTRANSLATABLE and JSON_FIELD_NO_JSON, value and sqlstate
 * tell them.  For JSON_FIELD_NO_TEXT value is the JSON that is there.
 */
JsonFieldResult
json_field(char *payload, ArrayType *path, char **value, int *sqlstate)
{
	Datum		json = CStringGetTextDatum(payload);
	ErrorData  *error;
	Datum		found;
	bool		isnull;
	char	   *result;

	error = try_function(json_extract_path, json, PointerGetDatum(path),
						 &found, &isnull);
	if (error != NULL)
	{
		*value = error_text(error);
		*sqlstate = error->sqlerrcode;
		if (!json_is_valid(payload))
			return JSON_FIELD_NO_JSON;
		json = CStringGetTextDatum(substitute_escapes(payload));
		if (try_function(json_extract_path, json, PointerGetDatum(path),
						 &found, &isnull) != NULL)
			return JSON_FIELD_UNTRANSLATABLE;
	}
	if (isnull)
		return JSON_FIELD_MISSING;
	result = TextDatumGetCString(found);
	if (strcmp(result, "null") == 0)
		return JSON_FIELD_MISSING;
	if (strchr("\"-0123456789", result[0]) == NULL)
	{
		*value = result;
		return JSON_FIELD_NO_TEXT;
	}
	if (result[0] == '"')
	{
		/* No path at all is to the whole. */
		found = DirectFunctionCall2(json_extract_path_text, found,
									PointerGetDatum(construct_empty_array(TEXTOID)));
		result = TextDatumGetCString(found);
	}
	if (error != NULL && strchr(result, SUBSTITUTE) != NULL)
		return JSON_FIELD_UNTRANSLATABLE;
	*value = result;
	return JSON_FIELD_TEXT;
}
