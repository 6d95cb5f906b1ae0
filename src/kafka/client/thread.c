/*-------------------------------------------------------------------------
 *
 * thread.c
 *	  Threads of our own, for calls of librdkafka that take time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/thread.h"

#include <signal.h>

#include "libpq/pqsignal.h"

/*
 * Starts a thread that takes none of the process's signals: it inherits our
 * mask, and must leave our signals to us.  Returns 0, or an error's number.
 */
int
thread_start(pthread_t *thread, void *(*main) (void *), void *arg)
{
	sigset_t	all;
	sigset_t	before;
	int			result;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	result = pthread_create(thread, NULL, main, arg);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return result;
}
