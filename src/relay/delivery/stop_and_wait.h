/*-------------------------------------------------------------------------
 *
 * stop_and_wait.h
 *	  Events that are sent one at a time, because something is refused.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_STOP_AND_WAIT_H
#define OUTBOX_STOP_AND_WAIT_H

#include "postgres.h"

#include "event/event.h"
#include "kafka/producer/producer.h"
#include "relay/state/commit.h"
#include "relay/state/relay.h"

extern bool stop_and_wait_wanted(Relay *relay, const Event *event);
extern bool stop_and_wait_start(const Relay *relay, const Event *event,
								const ProducerTopic *topic);
extern bool stop_and_wait_explain(Relay *relay);
extern void stop_and_wait_refuse(Relay *relay, const Event *event, uint64 number);
extern void stop_and_wait_send(Relay *relay, const Event *event,
							   const Commit *commit, uint64 number);

#endif							/* OUTBOX_STOP_AND_WAIT_H */
