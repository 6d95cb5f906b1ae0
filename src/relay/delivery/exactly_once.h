/*-------------------------------------------------------------------------
 *
 * exactly_once.h
 *	  Kafka transactions of whole PostgreSQL transactions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXACTLY_ONCE_H
#define OUTBOX_EXACTLY_ONCE_H

#include "postgres.h"

#include "event/event.h"
#include "kafka/producer/producer.h"
#include "relay/state/commit.h"
#include "relay/state/relay.h"
#include "relay/state/watermark.h"

extern void exactly_once_event(Relay *relay, const Event *event,
							   const Commit *commit);
extern void exactly_once_delivered(Relay *relay, const Delivery *delivery);
extern bool exactly_once_is_full(const Relay *relay);
extern bool exactly_once_is_due(const Relay *relay, bool idle);
extern void exactly_once_step(Relay *relay, bool idle);
extern long exactly_once_idle_time(const Relay *relay, long timeout_ms);
extern bool exactly_once_ends_soon(const Relay *relay);
extern void exactly_once_commit(Relay *relay, XLogRecPtr position);
extern XLogRecPtr exactly_once_position(const Relay *relay);
extern void exactly_once_reached(Relay *relay, const Watermark *reached);
extern void exactly_once_leave(Relay *relay);
extern void exactly_once_seal(Relay *relay);
extern void exactly_once_expect_refusal(Relay *relay);
extern bool exactly_once_has_time(const Relay *relay);
extern bool exactly_once_drop(Relay *relay);

#endif							/* OUTBOX_EXACTLY_ONCE_H */
