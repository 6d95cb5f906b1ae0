/*-------------------------------------------------------------------------
 *
 * destroy.h
 *	  Destroys a librdkafka handle without waiting for long.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DESTROY_H
#define OUTBOX_DESTROY_H

#include <librdkafka/rdkafka.h>

extern void destroy_expect(void);
extern void destroy_done(void);
extern void destroy_handle(rd_kafka_t *handle);

#endif							/* OUTBOX_DESTROY_H */
