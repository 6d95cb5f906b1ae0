/*-------------------------------------------------------------------------
 *
 * producer_handles.c
 *	  The library's handles that a producer has: one, or more of them where
 *	  Kafka is far away.
 *
 * partition_placement.c says how many are wanted.  They are added a few at a
 * time, so that the wish must last; and one is used only when it knows the
 * cluster.  Handles that were not needed for a minute go.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/producer_handles.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/client/destroy.h"
#include "kafka/config/config.h"
#include "kafka/producer/backlog.h"
#include "kafka/producer/flush_thread.h"
#include "kafka/producer/partition_placement.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/producer_topics.h"
#include "kafka/producer/request_counter.h"

#define OPEN_INTERVAL_MS 10		/* between handles */
#define OPEN_AT_ONCE 4
#define GREETING_MS 10000		/* that a broker may take to answer */
#define LOOK_MS 60000			/* for which a handle must be of no use to go */
#define SETTLED_MS 1000			/* without another one, before partitions are
								 * distributed anew */

/* Throws away all events of a handle, before it is closed. */
static void
discard_events(Producer *producer, ProducerHandle *handle)
{
	rd_kafka_event_t *event;

	if (producer->event_of == handle)
	{
		producer->next_message = NULL;
		if (producer->event)
			rd_kafka_event_destroy(producer->event);
		producer->event = NULL;
		producer->event_of = NULL;
	}
	while ((event = rd_kafka_queue_poll(handle->queue, 0)) != NULL)
		rd_kafka_event_destroy(event);
}

/* Gives back what a handle has, but not the library's, which is returned. */
static rd_kafka_t *
strip(Producer *producer, ProducerHandle *handle)
{
	rd_kafka_t *library = handle->handle;

	flush_thread_end(handle);
	if (library)
	{
		rd_kafka_purge(library, RD_KAFKA_PURGE_F_QUEUE |
					   RD_KAFKA_PURGE_F_INFLIGHT |
					   RD_KAFKA_PURGE_F_NON_BLOCKING);
		rd_kafka_queue_io_event_enable(handle->queue, -1, NULL, 0);
		discard_events(producer, handle);
		rd_kafka_queue_destroy(handle->queue);
		if (broker_request_abandon(&handle->greeting, false))
			library = NULL;
	}
	handle->handle = NULL;
	return library;
}

/*
 * Makes the library's part of a handle out of a configuration, which it takes
 * in any case, and has its requests counted; NULL and an error when the library
 * refuses it.
 *
 * The library gives back what counts when it refuses a configuration, and
 * again when that is destroyed.  So then a few kB stay behind, and the next
 * configuration is tried without counting before.
 */
static rd_kafka_t *
create_counted(rd_kafka_conf_t *conf, RequestCounter **counter, char *error)
{
	static bool refused = false;
	rd_kafka_t *handle;

	if (refused)
	{
		handle = client_create(RD_KAFKA_PRODUCER, rd_kafka_conf_dup(conf), error);
		if (handle == NULL)
		{
			rd_kafka_conf_destroy(conf);
			return NULL;
		}
		destroy_handle(handle);
	}
	*counter = request_counter_count(conf);
	handle = client_try(RD_KAFKA_PRODUCER, conf, error);
	refused = handle == NULL;
	return handle;
}

/*
 * Makes a handle out of a configuration, which it takes in any case; NULL and
 * an error when the library refuses it or there is no room.
 */
static ProducerHandle *
open_handle(Producer *producer, rd_kafka_conf_t *conf, bool flushes, char *error)
{
	ProducerHandle *handle = MemoryContextAllocZero(producer->context,
													sizeof(ProducerHandle));

	handle->number = producer->nhandles;
	handle->stats.round_trip_us = -1;
	handle->handle = create_counted(conf, &handle->counter, error);
	if (handle->handle == NULL)
	{
		pfree(handle);
		return NULL;
	}
	rd_kafka_set_log_queue(handle->handle, NULL);
	handle->queue = rd_kafka_queue_get_main(handle->handle);
	wake_pipe_watch(&producer->wake, handle->queue);
	producer->handles[producer->nhandles++] = handle;
	if (!flushes || flush_thread_start(handle, error))
		return handle;
	producer->nhandles--;
	destroy_handle(strip(producer, handle));
	pfree(handle);
	return NULL;
}

/*
 * Opens the first handle.  Takes the configuration over in any case.  Returns
 * false, with the reason in error (PRODUCER_ERROR_LEN bytes), when that cannot
 * be done.
 */
bool
producer_handles_open_first(Producer *producer, rd_kafka_conf_t *conf, bool flushes,
							char *error)
{
	ProducerHandle *handle;

	if (producer->max_handles > 1)
		producer->template = rd_kafka_conf_dup(conf);
	handle = open_handle(producer, conf, flushes, error);
	if (handle == NULL)
		return false;
	handle->usable = true;
	producer->handle = handle->handle;
	return true;
}

/*
 * The topic, as the handle knows it; NULL when the library refuses that.  May
 * raise an error for want of memory.
 */
rd_kafka_topic_t *
producer_handles_topic(Producer *producer, ProducerHandle *handle, ProducerTopic *topic)
{
	if (handle->number == 0)
		return topic->handle;
	if (topic->others == NULL)
		topic->others = MemoryContextAllocZero(producer->context, MAX_HANDLES *
											   sizeof(rd_kafka_topic_t *));
	if (topic->others[handle->number] == NULL)
		topic->others[handle->number] = producer_topics_open(handle->handle, topic);
	return topic->others[handle->number];
}

/* Has a handle ask for the topics that are in use. */
static void
greet(Producer *producer, ProducerHandle *handle)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->outstanding > 0)
			(void) producer_handles_topic(producer, handle, topic);
	handle->greeted_at = monotonic_now();
	handle->greeting = broker_request_ask(handle->handle, &producer->wake, NULL, false,
										  GREETING_MS);
}

/* Opens one more handle. */
static void
add_handle(Producer *producer)
{
	char		error[PRODUCER_ERROR_LEN];
	ProducerHandle *handle = open_handle(producer,
										 rd_kafka_conf_dup(producer->template),
										 true, error);

	producer->opened_at = monotonic_now();
	if (handle)
	{
		greet(producer, handle);
		return;
	}
	producer->max_handles = producer->nhandles;
	ereport(LOG,
			(errmsg("outbox makes do with %d connections to each broker: %s",
					producer->nhandles, error)));
}

/* Takes the answer to a greeting, if it is there. */
static void
take_answer(Producer *producer, ProducerHandle *handle)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;

	if (handle->usable || handle->leaving)
		return;
	if (handle->greeting == NULL)
	{
		if (TimestampDifferenceExceeds(handle->greeted_at, monotonic_now(),
									   GREETING_MS))
			greet(producer, handle);
		return;
	}
	if (!broker_request_answer(&handle->greeting, &err, &metadata))
		return;
	handle->usable = err == RD_KAFKA_RESP_ERR_NO_ERROR;
	if (metadata)
		rd_kafka_metadata_destroy(metadata);
}

/* Has the topic nothing to do with the handle any more. */
static void
forget_handle(ProducerTopic *topic, const ProducerHandle *handle)
{
	if (topic->others && topic->others[handle->number])
	{
		rd_kafka_topic_destroy(topic->others[handle->number]);
		topic->others[handle->number] = NULL;
	}
	for (int i = 0; i < topic->npartitions; i++)
	{
		if (topic->partitions[i].handle != handle->number)
			continue;
		topic->partitions[i].handle = 0;
		topic->partitions[i].acknowledged_at = 0;
	}
}

/* Closes the last handle, of which nothing is under way. */
static void
remove_handle(Producer *producer)
{
	ProducerHandle *handle = producer->handles[producer->nhandles - 1];
	rd_kafka_t *library;
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;

	producer->nhandles--;
	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		forget_handle(topic, handle);
	producer->retries_before += handle->stats.retries;
	library = strip(producer, handle);
	if (library)
		destroy_handle(library);
	pfree(handle);
}

/* Closes a handle that was not needed lately, if there is one. */
static void
remove_needless(Producer *producer, TimestampTz now)
{
	ProducerHandle *last = producer->handles[producer->nhandles - 1];

	if (!TimestampDifferenceExceeds(producer->looked_at, now, LOOK_MS))
		return;
	if (producer->nhandles > Max(producer->most_busy, 1))
	{
		/* It gets nothing more, and goes when it has nothing left. */
		last->leaving = true;
		last->usable = false;
		if (last->flushing.outstanding == 0)
			remove_handle(producer);
		return;
	}
	producer->looked_at = now;
	producer->most_busy = producer->nbusy;
}

/* Opens some of the handles that are wanted. */
static void
add_some(Producer *producer, TimestampTz now, int wanted)
{
	ProducerHandle *last = producer->handles[producer->nhandles - 1];
	int			more = Min(wanted - producer->nhandles, OPEN_AT_ONCE);

	if (!TimestampDifferenceExceeds(producer->opened_at, now, OPEN_INTERVAL_MS))
		return;
	producer->looked_at = now;
	/* One that was about to go may stay. */
	if (last->leaving)
	{
		last->leaving = false;
		last->greeted_at = 0;
	}
	while (more-- > 0 && producer->nhandles < producer->max_handles)
		add_handle(producer);
}

/*
 * Adds handles, or has one go, as is wanted.  May be called often, and may raise
 * an error for want of memory.
 */
void
producer_handles_poll(Producer *producer)
{
	TimestampTz now;
	int			wanted;

	if (producer->template == NULL ||
		(producer->nhandles == 1 && producer->outstanding == 0))
		return;
	now = monotonic_now();
	backlog_poll(producer, now);
	wanted = placement_wanted(producer);
	for (int i = 1; i < producer->nhandles; i++)
		take_answer(producer, producer->handles[i]);
	if (wanted > producer->nhandles)
		add_some(producer, now, wanted);
	else if (producer->nhandles > 1)
		remove_needless(producer, now);
	if (producer->nhandles > 1)
		placement_anew(producer, now);
	if (producer->opened_at != 0 &&
		TimestampDifferenceExceeds(producer->opened_at, now, SETTLED_MS))
	{
		producer->opened_at = 0;
		producer->placements++;
	}
}

/*
 * The handles go with the process, since a thread uses one of them.
 */
void
producer_handles_leave(Producer *producer)
{
	for (int i = 0; i < producer->nhandles; i++)
	{
		flush_thread_end(producer->handles[i]);
		(void) broker_request_abandon(&producer->handles[i]->greeting, true);
	}
}

/*
 * Closes all handles, and drops what they hold.
 */
void
producer_handles_close(Producer *producer)
{
	rd_kafka_t *libraries[MAX_HANDLES];
	int			n = 0;

	for (int i = 0; i < producer->nhandles; i++)
		flush_thread_stop(producer->handles[i]);
	for (int i = 0; i < producer->nhandles; i++)
	{
		rd_kafka_t *library = strip(producer, producer->handles[i]);

		if (library && (i > 0 || !broker_request_abandon(&producer->question, false)))
			libraries[n++] = library;
	}
	destroy_handles(libraries, n);
	producer->nhandles = 0;
	if (producer->template)
		rd_kafka_conf_destroy(producer->template);
	producer->template = NULL;
}
