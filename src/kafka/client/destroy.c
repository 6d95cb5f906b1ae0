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
 * A process may end at any time, in many ways, also while a handle is in use.
 * Its threads are still at work then, and what libraries do in exit() would
 * take away what they use; a crash there would restart the whole server.  So
 * as long as there is a handle, the process ends without that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/destroy.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/client/thread.h"

#define PATIENCE_MS 300

/* Handles that there are, or that may not have gone yet. */
static int	handles = 0;

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
start_thread(pthread_t *thread, rd_kafka_t *handle, int done)
{
	Destruction *destruction = malloc(sizeof(Destruction));

	if (destruction == NULL)
		return false;
	destruction->handle = handle;
	destruction->done = done;
	if (thread_start(thread, destroy_main, destruction) == 0)
		return true;
	free(destruction);
	return false;
}

/* Ends the process without exit(), if a handle is left. */
static void
exit_at_once(int code, Datum arg)
{
	if (handles > 0)
		_exit(code);
}

/*
 * A handle is about to be created.
 */
void
destroy_expect(void)
{
	static bool is_registered = false;

	if (!is_registered)
		on_proc_exit(exit_at_once, (Datum) 0);
	is_registered = true;
	handles++;
}

/*
 * There is none of it any more, nor of its threads.
 */
void
destroy_done(void)
{
	handles--;
}

/*
 * Waits for the thread's end, but not for long: then it goes on by itself.
 * The end of its work is not its own: libraries clean up behind it, and must
 * not do so while they do that for the process, in exit().
 */
static void
wait_for_thread(pthread_t thread, int done, TimestampTz until)
{
	struct pollfd fd = {.fd = done,.events = POLLIN};

	if (poll(&fd, 1, TimestampDifferenceMilliseconds(monotonic_now(), until)) == 1)
	{
		pthread_join(thread, NULL);
		destroy_done();
	}
	else
		pthread_detach(thread);
}

/* Begins to destroy a handle.  Returns false when it has gone already. */
static bool
begin(rd_kafka_t *handle, pthread_t *thread, int *done)
{
	int			fds[2];

	if (pipe(fds) == 0)
	{
		(void) fcntl(fds[0], F_SETFD, FD_CLOEXEC);
		(void) fcntl(fds[1], F_SETFD, FD_CLOEXEC);
		*done = fds[0];
		if (start_thread(thread, handle, fds[1]))
			return true;
		close(fds[0]);
		close(fds[1]);
	}
	rd_kafka_destroy(handle);
	destroy_done();
	return false;
}

/*
 * Destroys handles, all at the same time.  Topics and queues that belong to
 * them must be destroyed before.  The caller must not care whether the library
 * is still busy with them.  One that a call of the library may still be using
 * must be left alone instead: it goes away with the process.
 */
void
destroy_handles(rd_kafka_t **list, int n)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(), PATIENCE_MS);
	pthread_t	threads[DESTROY_MOST];
	int			done[DESTROY_MOST];
	sigset_t	all;
	sigset_t	before;
	int			begun = 0;

	Assert(n <= DESTROY_MOST);
	/* No signal shall end the wait. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	for (int i = 0; i < n; i++)
		if (begin(list[i], &threads[begun], &done[begun]))
			begun++;
	for (int i = 0; i < begun; i++)
	{
		wait_for_thread(threads[i], done[i], until);
		close(done[i]);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
}

/*
 * The same for one of them.
 */
void
destroy_handle(rd_kafka_t *handle)
{
	destroy_handles(&handle, 1);
}
