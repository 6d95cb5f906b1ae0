/*-------------------------------------------------------------------------
 *
 * utf8.c
 *	  Kafka's text, which is UTF-8, as text of the database.
 *
 * PostgreSQL's own conversions raise an error where there is none.  Here that
 * is an answer: one message must not be in the way of others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "core/utf8.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "core/compat.h"

PG_FUNCTION_INFO_V1(outbox_utf8_text);

/*
 * Converts bytes that should be UTF-8 to the database's encoding, with a
 * terminating zero, in the current memory context.  NULL when they are not, or
 * hold a zero, or a character that the encoding does not have.  A database in
 * SQL_ASCII takes them as they are.  Needs a transaction.
 */
char *
utf8_to_database(const char *data, int len)
{
	int			encoding = GetDatabaseEncoding();
	char	   *copy;
	Oid			proc;
	Size		size;

	if (!pg_verify_mbstr(PG_UTF8, data, len, true))
		return NULL;
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return pnstrdup(data, len);

	proc = FindDefaultConversionProc(PG_UTF8, encoding);
	if (!OidIsValid(proc))
		return NULL;
	size = Min((Size) len * MAX_CONVERSION_GROWTH + 1, INT_MAX);
	copy = MemoryContextAllocHuge(CurrentMemoryContext, size);
	if (pg_do_encoding_conversion_buf(proc, PG_UTF8, encoding,
									  (unsigned char *) unconstify(char *, data),
									  len, (unsigned char *) copy, (int) size,
									  true) != len)
	{
		pfree(copy);
		return NULL;
	}
	return copy;
}

/*
 * utf8_text(bytes bytea) RETURNS text: NULL when they are no text of the
 * database.
 */
Datum
outbox_utf8_text(PG_FUNCTION_ARGS)
{
	bytea	   *bytes = PG_GETARG_BYTEA_PP(0);
	char	   *converted = utf8_to_database(VARDATA_ANY(bytes),
											 VARSIZE_ANY_EXHDR(bytes));

	if (converted == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(converted));
}
