/*-------------------------------------------------------------------------
 *
 * json_members.h
 *	  Finds the members of a JSON object.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_JSON_MEMBERS_H
#define OUTBOX_JSON_MEMBERS_H

#include "postgres.h"

#include "core/slice.h"

extern bool json_members(Slice text, const char *const *names, int count,
						 Slice *values);
extern bool json_elements(Slice text, int count, Slice *values);

#endif							/* OUTBOX_JSON_MEMBERS_H */
