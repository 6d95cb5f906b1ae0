/*-------------------------------------------------------------------------
 *
 * record_timestamp.h
 *	  The Kafka timestamp of an event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RECORD_TIMESTAMP_H
#define OUTBOX_RECORD_TIMESTAMP_H

#include "postgres.h"

#include "relay/state/commit.h"
#include "relay/state/relay.h"

extern int64 record_timestamp_of(const Relay *relay, const Commit *commit);
extern bool record_timestamp_refused(Relay *relay, const Commit *commit,
									 int64 timestamp_ms);

#endif							/* OUTBOX_RECORD_TIMESTAMP_H */
