/*-------------------------------------------------------------------------
 *
 * producer_error.h
 *	  The last error of a producer, and whether it is beyond use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_ERROR_H
#define OUTBOX_PRODUCER_ERROR_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"

extern void producer_set_error(Producer *producer, rd_kafka_resp_err_t err);
extern void events_check_fatal(Producer *producer);

#endif							/* OUTBOX_PRODUCER_ERROR_H */
