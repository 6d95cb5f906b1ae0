/*-------------------------------------------------------------------------
 *
 * flush_thread.c
 *	  The thread that flushes a handle's messages; flush.c says when.
 *
 * The thread knows nothing of PostgreSQL's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/flush_thread.h"

#include <pthread.h>
#include <time.h>

#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/thread.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/request_counter.h"

#define TRIES 5					/* flushes until a request was sent */

/* The thread flushes again after so long, then twice that, and so on. */
#define FIRST_REPEAT_MS 10
#define LAST_REPEAT_MS 100
#define IDLE_MS 1000			/* between looks when nothing is outstanding */

/* The thread.  Not in a memory context: it knows nothing of those. */
struct Flusher
{
	rd_kafka_t *handle;
	RequestCounter *counter;
	pthread_t	thread;
	pthread_mutex_t mutex;		/* of what follows */
	pthread_cond_t changed;
	int			wanted_ms;		/* a flush that lasts so long, once the
								 * present one is over; 0 for none */
	TimestampTz kept_until;		/* without a pause, by monotonic_now() */
	TimestampTz rests_until;	/* does not repeat anything before, likewise */
	bool		stopped;
};

/* Waits for a change for so many ms; the mutex is ours. */
static bool
wait_for_change(Flusher *flusher, int ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000;
	if (until.tv_nsec >= 1000000000)
	{
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	return pthread_cond_timedwait(&flusher->changed, &flusher->mutex, &until) == 0;
}

/*
 * How long, in ms, the thread is to flush now; 0 to look again.  Waits for up to
 * *pause_ms before, and says how long it is to be next time.
 */
static int
next_window(Flusher *flusher, int *pause_ms)
{
	bool		told = true;
	bool		idle;
	int			window_ms = 0;

	pthread_mutex_lock(&flusher->mutex);
	if (flusher->wanted_ms == 0 && flusher->kept_until < monotonic_now() &&
		!flusher->stopped)
		told = wait_for_change(flusher, *pause_ms);
	idle = rd_kafka_outq_len(flusher->handle) == 0;
	if (flusher->wanted_ms > 0)
	{
		window_ms = flusher->wanted_ms;
		*pause_ms = FIRST_REPEAT_MS;
	}
	else if (flusher->kept_until >= monotonic_now())
	{
		window_ms = BUSY_MS;
		*pause_ms = FIRST_REPEAT_MS;
		/* The owner is about to take the last report. */
		if (idle && !flusher->stopped)
			(void) wait_for_change(flusher, SHORTEST_MS);
	}
	else if (idle)
		*pause_ms = IDLE_MS;
	else if (!told && flusher->rests_until < monotonic_now())
	{
		window_ms = SHORTEST_MS;
		*pause_ms = Min(*pause_ms * 2, LAST_REPEAT_MS);
	}
	flusher->wanted_ms = 0;
	if (flusher->stopped)
		window_ms = -1;
	pthread_mutex_unlock(&flusher->mutex);
	return window_ms;
}

/* Flushes for so long, or until that has led to something. */
static void
flush_some(Flusher *flusher, int window_ms)
{
	uint32		before = request_counter_sent(flusher->counter);
	int			left = window_ms < BUSY_MS ? TRIES : 1;

	while (left-- > 0 &&
		   rd_kafka_flush(flusher->handle, window_ms) != RD_KAFKA_RESP_ERR_NO_ERROR &&
		   request_counter_sent(flusher->counter) == before)
		;
}

static void *
flusher_main(void *arg)
{
	Flusher    *flusher = arg;
	int			pause_ms = IDLE_MS;
	int			window_ms;

	while ((window_ms = next_window(flusher, &pause_ms)) >= 0)
		if (window_ms > 0)
			flush_some(flusher, window_ms);
	return NULL;
}

/*
 * Has the thread flush for so many ms.
 */
void
flush_thread_flush(Flusher *flusher, int wanted_ms)
{
	pthread_mutex_lock(&flusher->mutex);
	flusher->wanted_ms = Max(flusher->wanted_ms, wanted_ms);
	pthread_cond_signal(&flusher->changed);
	pthread_mutex_unlock(&flusher->mutex);
}

/*
 * Has the thread flush without a pause until then, by monotonic_now(); 0 for no
 * longer.
 */
void
flush_thread_keep(Flusher *flusher, TimestampTz until)
{
	pthread_mutex_lock(&flusher->mutex);
	flusher->kept_until = until;
	if (until != 0)
		pthread_cond_signal(&flusher->changed);
	pthread_mutex_unlock(&flusher->mutex);
}

/*
 * Has the thread not flush by itself until then, by monotonic_now(): batches are to
 * grow.
 */
void
flush_thread_rest(Flusher *flusher, TimestampTz until)
{
	pthread_mutex_lock(&flusher->mutex);
	flusher->rests_until = until;
	pthread_mutex_unlock(&flusher->mutex);
}

/* Gives back the memory of a flusher that has no thread. */
static void
free_flusher(Flusher *flusher)
{
	pthread_cond_destroy(&flusher->changed);
	pthread_mutex_destroy(&flusher->mutex);
	free(flusher);
}

/*
 * Starts the thread that flushes a handle's messages.  Returns false, with the
 * reason in error (PRODUCER_ERROR_LEN bytes), when that cannot be done.
 */
bool
flush_thread_start(ProducerHandle *handle, char *error)
{
	Flusher    *flusher = calloc(1, sizeof(Flusher));
	pthread_condattr_t attributes;
	int			result;

	if (flusher == NULL)
	{
		strlcpy(error, "out of memory", PRODUCER_ERROR_LEN);
		return false;
	}
	flusher->handle = handle->handle;
	flusher->counter = handle->counter;
	pthread_mutex_init(&flusher->mutex, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&flusher->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	result = thread_start(&flusher->thread, flusher_main, flusher);
	if (result != 0)
	{
		snprintf(error, PRODUCER_ERROR_LEN, "could not create a thread: %s",
				 strerror(result));
		free_flusher(flusher);
		return false;
	}
	handle->flushing.flusher = flusher;
	return true;
}

/*
 * Tells the thread, if there is one, to end, without waiting for that.
 */
void
flush_thread_stop(ProducerHandle *handle)
{
	Flusher    *flusher = handle->flushing.flusher;

	if (flusher == NULL)
		return;
	pthread_mutex_lock(&flusher->mutex);
	flusher->stopped = true;
	pthread_cond_signal(&flusher->changed);
	pthread_mutex_unlock(&flusher->mutex);
}

/*
 * Ends the thread, if there is one, which must be done before the handle goes.
 */
void
flush_thread_end(ProducerHandle *handle)
{
	Flusher    *flusher = handle->flushing.flusher;

	if (flusher == NULL)
		return;
	flush_thread_stop(handle);
	pthread_join(flusher->thread, NULL);
	free_flusher(flusher);
	handle->flushing.flusher = NULL;
}
