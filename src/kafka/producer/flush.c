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
 * linger.  The call lasts some time, so a thread makes it, for each handle
 * (flush_thread.c).
 *
 * A handle has one request under way to each broker, and the library makes the
 * next one meanwhile, if that is for another partition.  As long as it has one
 * it does not look for more.  So while messages of several partitions with one
 * leader are under way, a handle is flushed without a pause: the library's
 * thread never turns round and round then, and each message leaves as soon as
 * it can, whatever anybody's clock says.
 *
 * While there is a backlog, more comes at once.  So a handle is not flushed before
 * there is enough for large batches, of which a few cost less than many small
 * ones, and no longer once there is not (backlog.c).
 *
 * When only one partition's messages are under way, flushing is to be said
 * when nothing more comes for now and no request is under way: at the start,
 * and then with each acknowledgement that lets what waits go.  That a request is
 * under way is known from counting them (request_counter.c).  A flush lasts as
 * short a time as can be asked for, since while it lasts the library may turn
 * round and round as before, or make a small request that has to wait, and
 * what comes then would wait for that as well.  The library's threads may come
 * too late for that time, so the thread says it again until a request was
 * sent.
 *
 * What is counted may be wrong, since requests fail.  So the thread flushes
 * again after a while, and again, until nothing is outstanding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/flush.h"

#include "port/pg_bitutils.h"
#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/config/config.h"
#include "kafka/producer/backlog.h"
#include "kafka/producer/flush_thread.h"
#include "kafka/producer/gate.h"
#include "kafka/producer/gate_step.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/request_counter.h"

/* Messages that are not flushed linger, unless a transaction ends before. */
#define LINGER_MS 60000

#define OLD_MS 50				/* what messages may get */
#define FILL_MS 5				/* the same when nothing is under way */
#define MESSAGES_PER_LOOK 256	/* at the clock */

/*
 * Several partitions keep a handle flushed for so long after one of them was
 * acknowledged after another one: those that wait for a leader do not count.
 */
#define CROWDED_MS 1000
#define REFRESH_MS 100			/* of that time */

#define FAR_US 2000				/* if requests take so long, Kafka is far */

/* Has a handle flushed without a pause until then; 0 for no longer. */
static void
keep_flushed(Flushing *flushing, TimestampTz until)
{
	flushing->kept_until = until;
	flush_thread_keep(flushing->flusher, until);
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
 * Is there to be a thread that flushes?  Not where a gate does the same.
 */
bool
flush_is_wanted(const KafkaConfig *config)
{
	return !flush_is_unwanted(config) && !gate_is_wanted(config);
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
 * The library has taken a message, or not, for that reason.
 */
void
flush_note_sent(Producer *producer, ProducerHandle *handle,
				rd_kafka_resp_err_t err)
{
	Flushing   *flushing = &handle->flushing;

	flushing->full = err == RD_KAFKA_RESP_ERR__QUEUE_FULL;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	flushing->outstanding++;
	if (++flushing->sent % MESSAGES_PER_LOOK == 0)
		producer_flush_old(producer);
}

/*
 * Messages of several partitions with one leader are under way, and one of them
 * was acknowledged after another one, or they have just become several.  Keeps
 * the handle flushed.
 */
static void
keep_crowded(Flushing *flushing, TimestampTz now)
{
	TimestampTz until = TimestampTzPlusMilliseconds(now, CROWDED_MS);

	if (flushing->flusher &&
		TimestampDifferenceExceeds(flushing->kept_until, until, REFRESH_MS))
		keep_flushed(flushing, until);
}

/*
 * The library is done with a message, as the handle's busy partitions show.
 */
void
flush_note_reported(const Producer *producer, ProducerHandle *handle,
					const rd_kafka_message_t *message, TimestampTz now)
{
	Flushing   *flushing = &handle->flushing;
	bool		varies = message->rkt != handle->last_topic ||
	message->partition != handle->last_partition;

	flushing->outstanding--;
	flushing->reported = true;
	handle->last_topic = message->rkt;
	handle->last_partition = message->partition;
	if (flushing->kept_until == 0)
		return;
	if (flushing->crowded == 0)
		keep_flushed(flushing, 0);
	else if (backlog_grows(producer, true))
	{
		keep_flushed(flushing, 0);
		flush_thread_rest(flushing->flusher, TimestampTzPlusMilliseconds(now, OLD_MS));
	}
	else if (varies)
		keep_crowded(flushing, now);
}

/*
 * Is no request under way to the leaders of a slot, but something is left for
 * them?  There is one at most; more were lost.
 */
static bool
is_idle(ProducerHandle *handle, int slot)
{
	HandleLeader *leader = &handle->leaders[slot];
	uint32		sent = request_counter_sent_to(handle->counter, slot);
	int32		under_way = (int32) (sent - leader->answered);

	if (under_way < 0 || leader->busy == 0)
		leader->answered = sent;
	else if (under_way > 1)
		leader->answered = sent - 1;
	return leader->busy > 0 && leader->answered == sent;
}

/*
 * Something was sent or reported.  Can a flush make the library send anything,
 * where one partition is busy?
 *
 * What waits for an acknowledgement cannot be sent.  If it is as much as the
 * library takes, it is full batches, which the library sends by itself.
 */
static bool
has_use(ProducerHandle *handle)
{
	Flushing   *flushing = &handle->flushing;
	uint64		looks = flushing->looks;

	if (flushing->reported && flushing->full)
		return false;
	while (looks != 0)
	{
		int			slot = pg_rightmost_one_pos64(looks);

		if (is_idle(handle, slot))
			return true;
		looks &= looks - 1;
	}
	return false;
}

/*
 * Has the library flush: from now on for a moment, or without a pause where
 * several partitions are busy.
 */
static void
flush(ProducerHandle *handle, TimestampTz now)
{
	Flushing   *flushing = &handle->flushing;
	int			window_ms = flushing->full ? BUSY_MS : SHORTEST_MS;

	/* Those that are stuck do not keep it flushed for ever. */
	if (flushing->crowded > 0 && flushing->kept_until == 0)
		keep_crowded(flushing, now);
	if (flushing->crowded > 0 && flushing->kept_until >= now)
		return;
	flushing->flushed_until = TimestampTzPlusMilliseconds(now, window_ms);
	flush_thread_flush(flushing->flusher, window_ms);
}

/*
 * Nothing more comes before the end of the transaction: messages linger no
 * longer, even if the administrator wants them to.
 */
void
producer_hurry(Producer *producer)
{
	producer->hurried = true;
}

/* Nothing more is to be looked at for now. */
static void
end_look(Flushing *flushing)
{
	flushing->sent = 0;
	flushing->reported = false;
	flushing->looks = 0;
}

/*
 * Nothing more comes for now: has the library send what it may send now.  To be
 * called before the caller waits; does not wait itself for more than a moment.
 */
void
producer_flush(Producer *producer)
{
	producer->flushes++;
	backlog_note_caught_up(producer);
	if (producer->gate)
	{
		gate_step(producer, true);
		return;
	}
	for (int i = 0; i < producer->nhandles; i++)
	{
		ProducerHandle *handle = producer->handles[i];
		Flushing   *flushing = &handle->flushing;

		if (flushing->flusher == NULL && producer->hurried &&
			flushing->outstanding > 0)
			(void) rd_kafka_flush(handle->handle, BUSY_MS);
		if (flushing->flusher && flushing->outstanding > 0 &&
			(flushing->sent > 0 || flushing->reported) &&
			(flushing->crowded > 0 || has_use(handle)))
			flush(handle, monotonic_now());
		end_look(flushing);
	}
}

/*
 * Nothing more comes for now, but what was sent is only of use together with
 * what comes soon, when producer_hurry() is called: has the library prepare for
 * sending it, or sends it as well.  If Kafka is near, a request costs next to
 * nothing, and what is answered by then need not be waited for.
 */
void
producer_prepare(Producer *producer)
{
	if (producer->gate && producer->stats.round_trip_us >= FAR_US)
		gate_step(producer, false);
	else
		producer_flush(producer);
}

/*
 * The same as producer_flush() while more comes, so that nothing gets old and
 * the library is not idle.  May be called often.
 */
void
producer_flush_old(Producer *producer)
{
	TimestampTz now = monotonic_now();

	if (producer->gate)
		gate_step(producer, false);
	for (int i = 0; i < producer->nhandles; i++)
	{
		ProducerHandle *handle = producer->handles[i];
		Flushing   *flushing = &handle->flushing;
		int			old_ms = OLD_MS;

		if (flushing->flusher == NULL || flushing->outstanding == 0)
			continue;
		if (flushing->crowded > 0)
			old_ms = flushing->kept_until == 0 && !backlog_grows(producer, false) ?
				-1 : OLD_MS;
		else if (TimestampDifferenceExceeds(flushing->flushed_until, now, FILL_MS) &&
				 has_use(handle))
			old_ms = FILL_MS;
		if (!TimestampDifferenceExceeds(flushing->flushed_until, now, old_ms))
			continue;
		flush(handle, now);
		end_look(flushing);
	}
}
