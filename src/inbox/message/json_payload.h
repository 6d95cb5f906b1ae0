/*-------------------------------------------------------------------------
 *
 * json_payload.h
 *	  Looks into payloads that should be JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_JSON_PAYLOAD_H
#define OUTBOX_JSON_PAYLOAD_H

#include "postgres.h"

#include "utils/array.h"

/* What there is at a path. */
typedef enum JsonFieldResult
{
	JSON_FIELD_TEXT,
	JSON_FIELD_MISSING,			/* nothing, or null */
	JSON_FIELD_NO_TEXT,			/* an object, an array, or a boolean */
	JSON_FIELD_UNTRANSLATABLE,	/* a string that PostgreSQL cannot hold */
	JSON_FIELD_NO_JSON			/* the whole is no JSON, or too deep */
} JsonFieldResult;

extern bool json_is_valid(char *payload);
extern JsonFieldResult json_field(char *payload, ArrayType *path, char **value,
								  int *sqlstate);

#endif							/* OUTBOX_JSON_PAYLOAD_H */
