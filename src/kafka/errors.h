/*-------------------------------------------------------------------------
 *
 * errors.h
 *	  Whose fault a Kafka error is.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_ERRORS_H
#define OUTBOX_KAFKA_ERRORS_H

#include <librdkafka/rdkafka.h>

#include "kafka/producer.h"

extern DeliveryResult errors_classify(rd_kafka_resp_err_t error);

#endif							/* OUTBOX_KAFKA_ERRORS_H */
