/*-------------------------------------------------------------------------
 *
 * flush_thread.h
 *	  The thread that flushes a handle's messages; flush.c says when.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FLUSH_THREAD_H
#define OUTBOX_FLUSH_THREAD_H

#include "postgres.h"

#include "kafka/producer/producer_state.h"

#define SHORTEST_MS 1			/* that a flush can last */
#define BUSY_MS 10				/* that one lasts while there is a lot to send */

extern bool flush_thread_start(ProducerHandle *handle, char *error);
extern void flush_thread_stop(ProducerHandle *handle);
extern void flush_thread_end(ProducerHandle *handle);
extern void flush_thread_flush(Flusher *flusher, int wanted_ms);
extern void flush_thread_keep(Flusher *flusher, TimestampTz until);
extern void flush_thread_rest(Flusher *flusher, TimestampTz until);

#endif							/* OUTBOX_FLUSH_THREAD_H */
