/*-------------------------------------------------------------------------
 *
 * event_check.h
 *	  What Kafka, or its consumers, could not take is refused when it is
 *	  published.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_CHECK_H
#define OUTBOX_EVENT_CHECK_H

#include "postgres.h"

#include "fmgr.h"

#include "core/slice.h"
#include "event/event.h"

extern Datum outbox_check_event(PG_FUNCTION_ARGS);
extern void check_event(const Event *event);
extern void check_topic(Slice topic);
extern void check_event_size(const Event *event, int limit);

#endif							/* OUTBOX_EVENT_CHECK_H */
