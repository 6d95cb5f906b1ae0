/*-------------------------------------------------------------------------
 *
 * published_set_json.h
 *	  The record of the progress topic that tells a published set.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHED_SET_JSON_H
#define OUTBOX_PUBLISHED_SET_JSON_H

#include "postgres.h"

#include "relay/state/published_set.h"

extern void published_set_encode(StringInfo buf, const PublishedSet *set,
								 int max_bytes);
extern SetForm published_set_parse(PublishedSet *set, const char *record,
								   int len, const char **malformed);

#endif							/* OUTBOX_PUBLISHED_SET_JSON_H */
