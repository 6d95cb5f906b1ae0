/*-------------------------------------------------------------------------
 *
 * producer_events.h
 *	  Serves what librdkafka has to say: deliveries, errors, log messages and
 *	  statistics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_EVENTS_H
#define OUTBOX_PRODUCER_EVENTS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern void events_discard(Producer *producer, ProducerHandle *handle);
extern void events_check_fatal(Producer *producer);

#endif							/* OUTBOX_PRODUCER_EVENTS_H */
