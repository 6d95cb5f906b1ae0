/*-------------------------------------------------------------------------
 *
 * header_pool.h
 *	  Pools of header lists.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HEADER_POOL_H
#define OUTBOX_HEADER_POOL_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern void headers_create(Producer *producer);
extern void headers_destroy(Producer *producer);
extern HeaderList *headers_make(Producer *producer, const Message *message);
extern void headers_keep(Producer *producer, HeaderList *list);
extern uint64 headers_delivered(Producer *producer,
								const rd_kafka_message_t *message);

#endif							/* OUTBOX_HEADER_POOL_H */
