/*-------------------------------------------------------------------------
 *
 * destroy.c
 *	  Destroys a librdkafka handle without waiting for long.
 *
 * rd_kafka_destroy() waits for the library's threads, and one of them may be
 * asking a name server that does not answer, which takes many seconds.  No
 * shutdown and no DROP DATABASE should wait for that.  So a thread of ours
 * destroys the handle, and we wait for it only for a while.  What is left
 * then goes away with that thread, or with the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/destroy.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "storage/ipc.h"

#define PATIENCE_MS 300

/* What the thread needs; it frees it, outside of any memory context. */
typedef struct Destruction
{
	rd_kafka_t *handle;
	int			done;			/* end of a pipe, closed when it is done */
} Destruction;

static void *
destroy_main(void *arg)
{
	Destruction *destruction = arg;

	rd_kafka_destroy(destruction->handle);
	close(destruction->done);
	free(destruction);
	return NULL;
}

/* Starts the thread; false when that is not possible. */
static bool
start_thread(rd_kafka_t *handle, int done)
{
	Destruction *destruction = malloc(sizeof(Destruction));
	pthread_t	thread;

	if (destruction == NULL)
		return false;
	destruction->handle = handle;
	destruction->done = done;
	if (pthread_create(&thread, NULL, destroy_main, destruction) != 0)
	{
		free(destruction);
		return false;
	}
	pthread_detach(thread);
	return true;
}

/*
 * A thread may still be at work: what libraries do in exit() would take away
 * what it uses, and a crash would restart the whole server.
 */
static void
exit_at_once(int code, Datum arg)
{
	_exit(code);
}

/*
 * A handle is left alone, because a call of the library may still be using
 * it.  It goes away with the process.
 */
void
destroy_never(void)
{
	static bool exits_at_once = false;

	if (!exits_at_once)
		on_proc_exit(exit_at_once, (Datum) 0);
	exits_at_once = true;
}

/*
 * Destroys a handle.  Topics and queues that belong to it must be destroyed
 * before.  The caller must not care whether the library is still busy with
 * it.
 */
void
destroy_handle(rd_kafka_t *handle)
{
	sigset_t	all;
	sigset_t	before;
	int			fds[2];

	if (pipe(fds) != 0)
	{
		rd_kafka_destroy(handle);
		return;
	}
	(void) fcntl(fds[0], F_SETFD, FD_CLOEXEC);
	(void) fcntl(fds[1], F_SETFD, FD_CLOEXEC);

	/* The thread inherits our mask, and must leave our signals to us. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if (start_thread(handle, fds[1]))
	{
		struct pollfd fd = {.fd = fds[0],.events = POLLIN};

		if (poll(&fd, 1, PATIENCE_MS) == 0)
			destroy_never();
	}
	else
	{
		rd_kafka_destroy(handle);
		close(fds[1]);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(fds[0]);
}
