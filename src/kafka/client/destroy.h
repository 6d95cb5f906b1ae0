/*-------------------------------------------------------------------------
 *
 * destroy.h
 *	  Destroys a librdkafka handle without waiting for long.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DESTROY_H
#define OUTBOX_DESTROY_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

/* Handles that can be destroyed at the same time. */
#define DESTROY_MOST 64

extern void destroy_expect(void);
extern void destroy_done(void);
extern void destroy_handle(rd_kafka_t *handle);
extern void destroy_handles(rd_kafka_t **list, int n);

#endif							/* OUTBOX_DESTROY_H */
