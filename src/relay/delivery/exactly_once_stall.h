/*-------------------------------------------------------------------------
 *
 * exactly_once_stall.h
 *	  What keeps a Kafka transaction from being completed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXACTLY_ONCE_STALL_H
#define OUTBOX_EXACTLY_ONCE_STALL_H

#include "postgres.h"

#include "core/compat.h"
#include "kafka/producer/producer_transaction.h"
#include "relay/state/relay.h"

extern void exactly_once_check_stall(Relay *relay);
extern TransactionResult exactly_once_wait(Relay *relay, TimestampTz since);
pg_noreturn extern void exactly_once_start_over(Relay *relay);

#endif							/* OUTBOX_EXACTLY_ONCE_STALL_H */
