/*-------------------------------------------------------------------------
 *
 * refusal.h
 *	  What was refused before says whether an event may be refused as well.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REFUSAL_H
#define OUTBOX_REFUSAL_H

#include "postgres.h"

#include "event/event.h"
#include "registry/relay_values.h"
#include "relay/state/relay.h"

extern const SuspectTopic *refusal_expected(Relay *relay, const Event *event);
extern bool refusal_is_certain(Relay *relay, const Event *event);
extern void refusal_learn(Relay *relay, const Event *event);
extern void refusal_dispel(Relay *relay, const Event *event);

#endif							/* OUTBOX_REFUSAL_H */
