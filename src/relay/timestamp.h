/*-------------------------------------------------------------------------
 *
 * timestamp.h
 *	  The Kafka timestamp of an event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_TIMESTAMP_H
#define OUTBOX_RELAY_TIMESTAMP_H

#include "relay/plugin.h"
#include "relay/relay.h"

extern int64 timestamp_of(const Relay *relay, const Commit *commit);
extern bool timestamp_refused(Relay *relay, const Commit *commit,
							  int64 timestamp_ms);

#endif							/* OUTBOX_RELAY_TIMESTAMP_H */
