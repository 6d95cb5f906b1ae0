/*-------------------------------------------------------------------------
 *
 * new_topics.h
 *	  Events for topics that the producer does not know yet.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_NEW_TOPICS_H
#define OUTBOX_NEW_TOPICS_H

#include "postgres.h"

#include "event/event.h"
#include "relay/state/commit.h"
#include "relay/state/relay.h"

extern bool new_topics_wanted(void);
extern void new_topics_keep(Relay *relay, const char *topic, const Event *event,
							const Commit *commit, uint64 number);
extern bool new_topics_keep_behind(Relay *relay, const Event *event,
								   const Commit *commit, uint64 number);
extern void new_topics_flush(Relay *relay);
extern void new_topics_step(Relay *relay, bool idle);
extern long new_topics_wait_ms(long timeout_ms);
extern void new_topics_forget(void);

#endif							/* OUTBOX_NEW_TOPICS_H */
