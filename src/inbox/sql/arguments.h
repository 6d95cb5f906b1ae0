/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  The arguments of inbox.subscribe() and its kin: what may be in them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ARGUMENTS_H
#define OUTBOX_ARGUMENTS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/array.h"

extern void argument_required(const char *name, bool isnull);
extern void check_name(const char *name);
extern void check_topics(ArrayType *topics);
extern void check_event_types(ArrayType *types);
extern void check_group_id(const char *group_id);
extern void check_header(const char *argument, const char *name);
extern void check_field(const char *argument, const char *field);
extern void check_id_field(const char *dedupe, const char *id_field);
extern void check_choice(const char *argument, const char *value,
						 const char *const *choices, int nchoices);
extern void check_range(const char *argument, int value, int min, int max);
extern void check_interval(const char *argument, const Interval *value,
						   int64 min_ms, int64 max_ms, const char *hint);
extern TimestampTz parse_time(const char *argument, const char *value,
							  const char *hint);
extern char *normalize_start(const char *start);

#endif							/* OUTBOX_ARGUMENTS_H */
