/*-------------------------------------------------------------------------
 *
 * topic_name.c
 *	  From an event to its topic.
 *
 * An event goes to the topic that it names, else to the one that its
 * aggregate type leads to: outbox.event.<aggregate_type>, case kept.
 *
 * Pure: no I/O, no globals.
 *
 *-------------------------------------------------------------------------
 */
#include "event/topic_name.h"

#include "event/event.h"

/*
 * Writes the event's topic, with a terminating zero, to topic, which has room
 * for TOPIC_MAX_LEN + 1 bytes.  Returns false when the name is too long.
 */
bool
topic_name_of(const Event *event, char *topic)
{
	const int	prefix = sizeof(TOPIC_PREFIX) - 1;

	if (event->topic.data)
	{
		if (event->topic.len > TOPIC_MAX_LEN)
			return false;
		memcpy(topic, event->topic.data, event->topic.len);
		topic[event->topic.len] = '\0';
		return true;
	}
	if (prefix + event->aggregate_type.len > TOPIC_MAX_LEN)
		return false;
	memcpy(topic, TOPIC_PREFIX, prefix);
	memcpy(topic + prefix, event->aggregate_type.data, event->aggregate_type.len);
	topic[prefix + event->aggregate_type.len] = '\0';
	return true;
}
