/*-------------------------------------------------------------------------
 *
 * error_class.h
 *	  Whose fault a Kafka error is.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ERROR_CLASS_H
#define OUTBOX_ERROR_CLASS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"

extern DeliveryResult errors_classify(rd_kafka_resp_err_t error);

#endif							/* OUTBOX_ERROR_CLASS_H */
