/*-------------------------------------------------------------------------
 *
 * suspect_topics.h
 *	  Topics that have refused something, and what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUSPECT_TOPICS_H
#define OUTBOX_SUSPECT_TOPICS_H

#include "postgres.h"

#include "registry/relay_values.h"

extern void suspect_topics_learn(const char *topic, const SuspectTopic *refusal);
extern const SuspectTopic *suspect_topics_find(const char *topic, int size,
											   bool has_key);
extern const char *suspect_topics_error_name(const SuspectTopic *suspect);
extern bool suspect_topics_any(void);
extern void suspect_topics_clear(const char *topic);
extern void suspect_topics_note_taken(const char *topic);
extern void suspect_topics_clear_taken(void);
extern void suspect_topics_take(const RelayHandover *handover);
extern void suspect_topics_leave(RelayHandover *handover);

#endif							/* OUTBOX_SUSPECT_TOPICS_H */
