/*-------------------------------------------------------------------------
 *
 * flush.c
 *	  Sends messages at once, without keeping a processor busy.
 *
 * With linger.ms=0 the library sends what it has at once.  But an idempotent
 * producer has one batch of a partition under way, and while more of that
 * partition waits, the library's thread looks again and again, without a
 * pause, whether it may be sent now: it is overdue.  With a partition that is
 * in demand that burns a whole processor, the sooner the farther away Kafka is.
 *
 * So messages are to linger for long, and are sent when their batch is full,
 * or when we say so, with rd_kafka_flush(), during which the library does not
 * linger.  That is to be said when nothing more comes for now, and then again
 * with each acknowledgement that lets what waits go.  The call lasts some
 * time, so a thread makes it.  It lasts as short a time as can be asked for,
 * since while it lasts the library may turn round and round as before.
 *
 * The library's threads may come too late for that time.  So the thread
 * flushes again after a while, and again, until nothing is outstanding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "port/atomics.h"
#include "utils/timestamp.h"

#include "base/steady.h"
#include "kafka/handle.h"
#include "kafka/thread.h"

/* Messages that are not flushed linger, unless a transaction ends before. */
#define LINGER_MS 60000

#define SHORTEST_MS 1			/* that a flush can last */
#define BUSY_MS 10				/* that one lasts while there is a lot to send */
#define OLD_MS 50				/* what messages may get */
#define MESSAGES_PER_LOOK 256	/* at the clock */

/* The thread flushes again after so long, then twice that, and so on. */
#define FIRST_REPEAT_MS 10
#define LAST_REPEAT_MS 100
#define IDLE_MS 1000			/* between looks when nothing is outstanding */

/* The thread.  Not in a memory context: it knows nothing of those. */
struct Flusher
{
	rd_kafka_t *handle;
	pthread_t	thread;
	WakePipe	wake;
	pg_atomic_uint32 wanted_ms; /* a flush that lasts so long, once the
								 * present one is over; 0 for none */
};

/* A wish for the end of the thread. */
#define THE_END PG_UINT32_MAX

static void *
flusher_main(void *arg)
{
	Flusher    *flusher = arg;
	struct pollfd fd = {.fd = flusher->wake.read_end,.events = POLLIN};
	int			pause_ms = IDLE_MS;

	for (;;)
	{
		bool		told = poll(&fd, 1, pause_ms) != 0;
		uint32		wanted_ms;

		wake_pipe_empty(&flusher->wake);
		wanted_ms = pg_atomic_exchange_u32(&flusher->wanted_ms, 0);
		if (wanted_ms == THE_END)
			return NULL;
		if (wanted_ms > 0)
			pause_ms = FIRST_REPEAT_MS;
		else if (told)
			continue;			/* of what is done already */
		else if (rd_kafka_outq_len(flusher->handle) == 0)
		{
			pause_ms = IDLE_MS;
			continue;
		}
		else
			pause_ms = Min(pause_ms * 2, LAST_REPEAT_MS);
		(void) rd_kafka_flush(flusher->handle, Max((int) wanted_ms, SHORTEST_MS));
	}
}

/* Has the thread flush for so many ms, or end. */
static void
tell(Flusher *flusher, uint32 wanted_ms)
{
	ssize_t		written pg_attribute_unused();

	if (pg_atomic_exchange_u32(&flusher->wanted_ms, wanted_ms) == 0)
		written = write(flusher->wake.write_end, "1", 1);
}

/* Gives back the memory of a flusher that has no thread. */
static void
free_flusher(Flusher *flusher)
{
	wake_pipe_close(&flusher->wake);
	free(flusher);
}

/*
 * Does the administrator want messages to linger?
 */
bool
flush_is_unwanted(const KafkaConfig *config)
{
	/* Two names of one property. */
	return kafka_config_has(config, "linger.ms") ||
		kafka_config_has(config, "queue.buffering.max.ms");
}

/*
 * Makes the library's configuration one for messages that are flushed.  They
 * must linger for less than a transaction may last.  Those without a key would
 * all go to one partition while they linger, which they only seem to do.
 * Returns false, with the reason in error (PRODUCER_ERROR_LEN bytes), when the
 * library refuses it.
 */
bool
flush_configure(rd_kafka_conf_t *conf, const KafkaConfig *config, char *error)
{
	const char *sticky = "sticky.partitioning.linger.ms";
	char		value[32];
	size_t		size = sizeof(value);

	if (!kafka_config_has(config, sticky) &&
		rd_kafka_conf_set(conf, sticky, "0", error, PRODUCER_ERROR_LEN) !=
		RD_KAFKA_CONF_OK)
		return false;
	(void) rd_kafka_conf_get(conf, "transaction.timeout.ms", value, &size);
	snprintf(value, sizeof(value), "%d", Min(atoi(value) / 2, LINGER_MS));
	return rd_kafka_conf_set(conf, "linger.ms", value, error,
							 PRODUCER_ERROR_LEN) == RD_KAFKA_CONF_OK;
}

/*
 * Starts the thread that flushes a producer's messages.  Returns false, with
 * the reason in error (PRODUCER_ERROR_LEN bytes), when that cannot be done.
 */
bool
flush_start(Producer *producer, char *error)
{
	Flusher    *flusher = calloc(1, sizeof(Flusher));
	int			result;

	if (flusher == NULL)
	{
		strlcpy(error, "out of memory", PRODUCER_ERROR_LEN);
		return false;
	}
	flusher->handle = producer->handle;
	pg_atomic_init_u32(&flusher->wanted_ms, 0);
	wake_pipe_init(&flusher->wake);
	if (!wake_pipe_open(&flusher->wake, error))
	{
		free_flusher(flusher);
		return false;
	}
	result = thread_start(&flusher->thread, flusher_main, flusher);
	if (result != 0)
	{
		snprintf(error, PRODUCER_ERROR_LEN, "could not create a thread: %s",
				 strerror(result));
		free_flusher(flusher);
		return false;
	}
	producer->flushing.flusher = flusher;
	return true;
}

/*
 * Ends the thread, if there is one, which must be done before the producer's
 * handle goes.
 */
void
flush_end(Producer *producer)
{
	Flusher    *flusher = producer->flushing.flusher;

	if (flusher == NULL)
		return;
	tell(flusher, THE_END);
	pthread_join(flusher->thread, NULL);
	free_flusher(flusher);
	producer->flushing.flusher = NULL;
}

/*
 * The library has taken a message, or not, for that reason.
 */
void
flush_note_sent(Producer *producer, rd_kafka_resp_err_t err)
{
	Flushing   *flushing = &producer->flushing;

	flushing->full = err == RD_KAFKA_RESP_ERR__QUEUE_FULL;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	flushing->outstanding++;
	if (++flushing->sent % MESSAGES_PER_LOOK == 0)
		producer_flush_old(producer);
}

/*
 * The library is done with a message.
 */
void
flush_note_reported(Producer *producer, const rd_kafka_message_t *message)
{
	Flushing   *flushing = &producer->flushing;

	flushing->outstanding--;
	flushing->reported = true;
	if (message->rkt != flushing->topic ||
		message->partition != flushing->partition)
	{
		flushing->topic = message->rkt;
		flushing->partition = message->partition;
		flushing->run = 0;
	}
	flushing->run++;
}

/*
 * Is all that is outstanding for one partition?  Most likely, when as many
 * messages in a row went to one.
 */
static bool
is_one_partition(const Flushing *flushing)
{
	return flushing->run >= flushing->outstanding;
}

/*
 * Something was sent or reported.  Can a flush make the library send anything?
 *
 * What is for one partition waits for its acknowledgement.  If it is as much as
 * the library takes, it is full batches, which the library sends by itself.  A
 * wrong guess costs no more than the time until the thread flushes again.
 */
static bool
has_use(const Flushing *flushing)
{
	if (flushing->outstanding == flushing->sent || !is_one_partition(flushing))
		return true;
	return flushing->reported && !flushing->full;
}

/* Has the library flush for window_ms from now on. */
static void
flush(Flushing *flushing, TimestampTz now, int window_ms)
{
	flushing->flushed_until = TimestampTzPlusMilliseconds(now, window_ms);
	tell(flushing->flusher, window_ms);
}

/*
 * Nothing more comes before the end of the transaction: messages linger no
 * longer, even if the administrator wants them to.
 */
void
producer_hurry(Producer *producer)
{
	producer->flushing.hurried = true;
}

/*
 * Nothing more comes for now: has the library send what it may send now.  To be
 * called before the caller waits; does not wait itself for more than a moment.
 */
void
producer_flush(Producer *producer)
{
	Flushing   *flushing = &producer->flushing;

	if (flushing->flusher == NULL && flushing->hurried &&
		flushing->outstanding > 0)
		(void) rd_kafka_flush(producer->handle, BUSY_MS);
	if (flushing->flusher && flushing->outstanding > 0 &&
		(flushing->sent > 0 || flushing->reported) && has_use(flushing))
		flush(flushing, steady_now(), flushing->full ? BUSY_MS : SHORTEST_MS);
	flushing->sent = 0;
	flushing->reported = false;
}

/*
 * The same while more comes, so that nothing gets old and the library is not
 * idle.  May be called often.
 *
 * One partition's batches get full.  Those of several may not, so they are
 * flushed all the time, which does no harm: the library does not look at what
 * waits for one of them while a request of another is ready.
 */
void
producer_flush_old(Producer *producer)
{
	Flushing   *flushing = &producer->flushing;
	TimestampTz now;

	if (flushing->flusher == NULL || flushing->outstanding == 0)
		return;
	now = steady_now();
	if (!is_one_partition(flushing))
	{
		if (now >= flushing->flushed_until)
			flush(flushing, now, BUSY_MS);
	}
	else if (TimestampDifferenceExceeds(flushing->flushed_until, now, OLD_MS))
		flush(flushing, now, SHORTEST_MS);
}
