/*-------------------------------------------------------------------------
 *
 * request_counter.h
 *	  Counts the produce requests that the library sends.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_REQUEST_COUNTER_H
#define OUTBOX_REQUEST_COUNTER_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer_state.h"

extern RequestCounter *request_counter_count(rd_kafka_conf_t *conf);
extern uint32 request_counter_sent(RequestCounter *counter);
extern uint32 request_counter_sent_to(RequestCounter *counter, int slot);
extern uint32 request_counter_fastest_us(RequestCounter *counter);

#endif							/* OUTBOX_REQUEST_COUNTER_H */
