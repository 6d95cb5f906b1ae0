/*-------------------------------------------------------------------------
 *
 * sender.h
 *	  Gets events to the broker, with patience.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SENDER_H
#define OUTBOX_SENDER_H

#include "postgres.h"

#include "event/event.h"
#include "kafka/producer/producer.h"
#include "relay/state/commit.h"
#include "relay/state/relay.h"

extern bool sender_open(Relay *relay);
extern void sender_open_patiently(Relay *relay);
extern void sender_close(Relay *relay);
extern void sender_leave(Relay *relay, int timeout_ms);
extern void sender_serve(Relay *relay);
extern void sender_poll(Relay *relay);
extern void sender_event(Relay *relay, const Event *event,
						 const Commit *commit);
extern void sender_send(Relay *relay, const Event *event, const Commit *commit,
						uint64 number);
extern void sender_drain(Relay *relay);
extern void sender_back_off(Relay *relay, int *delay_ms);
extern void sender_reopen(Relay *relay);
extern void sender_replace(Relay *relay);
extern SendResult sender_leave_message(Relay *relay, const Message *message);
extern void sender_await_deliveries(Relay *relay);

#endif							/* OUTBOX_SENDER_H */
