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

extern void suspects_learn(const char *topic, const SuspectTopic *refusal);
extern const SuspectTopic *suspects_find(const char *topic, int size,
										 bool has_key);
extern const char *suspects_error_name(const SuspectTopic *suspect);
extern bool suspects_any(void);
extern void suspects_clear(const char *topic);
extern void suspects_note_taken(const char *topic);
extern void suspects_clear_taken(void);
extern void suspects_take(const RelayHandover *handover);
extern void suspects_leave(RelayHandover *handover);

#endif							/* OUTBOX_SUSPECT_TOPICS_H */
