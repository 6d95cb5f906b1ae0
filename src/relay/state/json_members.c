/*-------------------------------------------------------------------------
 *
 * json_members.c
 *	  Finds the members of a JSON object.
 *
 * The server's own functions raise an error when text is no JSON, and what
 * they leave behind goes only with a transaction.  This is for text of which
 * nobody knows whether it is any.
 *
 * Pure: no I/O, no globals, no memory.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/state/json_members.h"

#include "core/slice.h"

#define MAX_DEPTH 16

typedef struct Scanner
{
	const char *p;
	const char *end;
} Scanner;

static bool skip_value(Scanner *scanner, int depth);

/* Moves on to the next token; returns its first character, 0 at the end. */
static char
next(Scanner *scanner)
{
	while (scanner->p < scanner->end &&
		   (*scanner->p == ' ' || *scanner->p == '\t' || *scanner->p == '\n' ||
			*scanner->p == '\r'))
		scanner->p++;
	return scanner->p < scanner->end ? *scanner->p : '\0';
}

/* Takes the next token if it is this character. */
static bool
take(Scanner *scanner, char c)
{
	if (next(scanner) != c)
		return false;
	scanner->p++;
	return true;
}

static bool
skip_string(Scanner *scanner)
{
	if (!take(scanner, '"'))
		return false;
	while (scanner->p < scanner->end && (unsigned char) *scanner->p >= ' ')
	{
		char		c = *scanner->p++;

		if (c == '"')
			return true;
		if (c == '\\' && scanner->p < scanner->end)
			scanner->p++;
	}
	return false;
}

/* A number, or true, false or null. */
static bool
skip_word(Scanner *scanner)
{
	const char *start = scanner->p;

	while (scanner->p < scanner->end &&
		   ((*scanner->p >= '0' && *scanner->p <= '9') ||
			(*scanner->p >= 'a' && *scanner->p <= 'z') ||
			*scanner->p == '-' || *scanner->p == '+' || *scanner->p == '.' ||
			*scanner->p == 'E'))
		scanner->p++;
	return scanner->p > start;
}

static bool
skip_array(Scanner *scanner, int depth)
{
	(void) take(scanner, '[');
	if (take(scanner, ']'))
		return true;
	do
		if (!skip_value(scanner, depth))
			return false;
	while (take(scanner, ','));
	return take(scanner, ']');
}

static bool
skip_object(Scanner *scanner, int depth)
{
	(void) take(scanner, '{');
	if (take(scanner, '}'))
		return true;
	do
		if (!skip_string(scanner) || !take(scanner, ':') ||
			!skip_value(scanner, depth))
			return false;
	while (take(scanner, ','));
	return take(scanner, '}');
}

static bool
skip_value(Scanner *scanner, int depth)
{
	if (depth >= MAX_DEPTH)
		return false;
	switch (next(scanner))
	{
		case '{':
			return skip_object(scanner, depth + 1);
		case '[':
			return skip_array(scanner, depth + 1);
		case '"':
			return skip_string(scanner);
		default:
			return skip_word(scanner);
	}
}

/* Skips a value; returns it as it is written. */
static bool
read_value(Scanner *scanner, Slice *value)
{
	(void) next(scanner);
	value->data = scanner->p;
	if (!skip_value(scanner, 0))
		return false;
	value->len = scanner->p - value->data;
	return true;
}

static void
begin(Scanner *scanner, Slice text)
{
	scanner->p = text.data;
	scanner->end = text.data + text.len;
}

/*
 * Fills in values with those of an object's members of these names, as they
 * are written; SLICE_NULL where there is none.  Other members are passed over.
 * Returns false when the text is no object.
 */
bool
json_members(Slice text, const char *const *names, int count, Slice *values)
{
	Scanner		scanner;

	begin(&scanner, text);
	memset(values, 0, count * sizeof(Slice));
	if (!take(&scanner, '{'))
		return false;
	if (take(&scanner, '}'))
		return next(&scanner) == '\0' && scanner.p == scanner.end;
	do
	{
		Slice		name;
		Slice		value;

		(void) next(&scanner);
		name.data = scanner.p + 1;
		if (!skip_string(&scanner))
			return false;
		name.len = scanner.p - name.data - 1;
		if (!take(&scanner, ':') || !read_value(&scanner, &value))
			return false;
		for (int i = 0; i < count; i++)
			if (name.len == strlen(names[i]) &&
				memcmp(name.data, names[i], name.len) == 0)
				values[i] = value;
	} while (take(&scanner, ','));
	return take(&scanner, '}') && next(&scanner) == '\0' &&
		scanner.p == scanner.end;
}

/*
 * The same for the first elements of an array, which must have so many.
 */
bool
json_elements(Slice text, int count, Slice *values)
{
	Scanner		scanner;

	begin(&scanner, text);
	if (!take(&scanner, '['))
		return false;
	for (int i = 0; i < count; i++)
		if ((i > 0 && !take(&scanner, ',')) || !read_value(&scanner, &values[i]))
			return false;
	return true;
}
