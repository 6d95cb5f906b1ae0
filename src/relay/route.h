/*-------------------------------------------------------------------------
 *
 * route.h
 *	  From an event to its topic.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ROUTE_H
#define OUTBOX_ROUTE_H

#include "publish/event.h"

#define TOPIC_PREFIX "outbox.event."
#define PROGRESS_TOPIC_PREFIX "outbox.progress."	/* no event's, see check.c */
#define TOPIC_MAX_LEN 249

extern bool route_topic(const Event *event, char *topic);

#endif							/* OUTBOX_ROUTE_H */
