/*-------------------------------------------------------------------------
 *
 * thread.h
 *	  Threads of our own, for calls of librdkafka that take time.
 *
 * Such a thread must not touch anything of PostgreSQL's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_THREAD_H
#define OUTBOX_THREAD_H

#include "postgres.h"

#include <pthread.h>

extern int	thread_start(pthread_t *thread, void *(*main) (void *), void *arg);

#endif							/* OUTBOX_THREAD_H */
