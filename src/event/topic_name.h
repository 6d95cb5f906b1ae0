/*-------------------------------------------------------------------------
 *
 * topic_name.h
 *	  From an event to its topic.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TOPIC_NAME_H
#define OUTBOX_TOPIC_NAME_H

#include "postgres.h"

#include "event/event.h"

#define TOPIC_PREFIX "outbox.event."
#define PROGRESS_TOPIC_PREFIX "outbox.progress."	/* no event's, see
													 * event_check.c */
#define TOPIC_MAX_LEN 249

extern bool topic_name_of(const Event *event, char *topic);

#endif							/* OUTBOX_TOPIC_NAME_H */
