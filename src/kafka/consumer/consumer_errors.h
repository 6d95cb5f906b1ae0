/*-------------------------------------------------------------------------
 *
 * consumer_errors.h
 *	  What a consumer hears of errors: about everything, one partition, or the
 *	  group.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_ERRORS_H
#define OUTBOX_CONSUMER_ERRORS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/consumer/consumer.h"

extern void consumer_take_error(Consumer *consumer, rd_kafka_event_t *event,
								const ConsumerHandler *handler);
extern void consumer_take_commit(Consumer *consumer, rd_kafka_event_t *event);
extern bool consumer_failed(Consumer *consumer, rd_kafka_resp_err_t err);

#endif							/* OUTBOX_CONSUMER_ERRORS_H */
