/*-------------------------------------------------------------------------
 *
 * producer_events.c
 *	  Serves what librdkafka has to say: deliveries, errors, log messages and
 *	  statistics.
 *
 * All of them come through one queue and are served on the main thread, with
 * no frame of librdkafka on the stack; so the handler and the server's log
 * may raise errors.  The event that is being served stays with the producer
 * until it is done: after an error the next call goes on behind the message
 * that failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <unistd.h>

#include "common/hashfn.h"
#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/client.h"
#include "kafka/client/event_log.h"
#include "kafka/producer/error_class.h"
#include "kafka/producer/gate.h"
#include "kafka/producer/header_pool.h"
#include "kafka/producer/partition_placement.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_error.h"
#include "kafka/producer/producer_handles.h"
#include "kafka/producer/producer_partitions.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/producer_topics.h"
#include "kafka/producer/statistics.h"

/* Keeps an error event for stat_relay. */
static void
take_error(Producer *producer, rd_kafka_event_t *event)
{
	ProducerStats *stats = &producer->stats;

	producer_topics_note_trouble(producer);
	if (event_log_error_text(producer->event_of->handle, event, stats->error,
							 stats->error[0] != '\0'))
		stats->nerrors++;
}

/*
 * The next message of a delivery report.  While it is served, the header list
 * of the one after it is on its way to the processor.
 */
static const rd_kafka_message_t *
next_delivery(Producer *producer, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *message = producer->next_message;

	if (message == NULL)
		message = rd_kafka_event_message_next(event);
	producer->next_message = rd_kafka_event_message_next(event);
	if (producer->next_message)
		__builtin_prefetch(producer->next_message->_private);
	return message;
}

/*
 * How many bytes a broker gets of a message, which its headers are part of
 * still, when it is sent alone; -1 if that cannot be known.
 */
static int
measure(const Producer *producer, const rd_kafka_message_t *message)
{
	Message		copy = {
		.key = {message->key, message->key_len},
		.value = {message->payload, message->len},
	};
	rd_kafka_headers_t *headers;
	const void *value;
	size_t		len;
	int			bytes;

	if (rd_kafka_message_headers(message, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		copy.headers = palloc(sizeof(MessageHeader) * rd_kafka_header_cnt(headers));
		while (rd_kafka_header_get_all(headers, copy.nheaders,
									   &copy.headers[copy.nheaders].name,
									   &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			MessageHeader *header = &copy.headers[copy.nheaders++];

			header->name_len = strlen(header->name);
			header->value.data = value;
			header->value.len = len;
		}
	}
	bytes = producer_sent_bytes(producer, &copy);
	if (copy.headers)
		pfree(copy.headers);
	return bytes;
}

/*
 * What became of a message.  Measures the first that was refused for its size:
 * it may have been alone, and then nothing else tells how large it was.
 */
static Delivery
describe(Producer *producer, const rd_kafka_message_t *message)
{
	Delivery	delivery = {
		.result = errors_classify(message->err),
		.error_name = "",
		.error_text = "",
		.bytes = (int) (message->len + message->key_len),
		.value_bytes = (int) message->len,
		.offset = message->offset,
	};

	if (delivery.result == DELIVERY_TOO_LARGE && !producer->too_large)
	{
		producer->too_large = true;
		delivery.sent_bytes = measure(producer, message);
	}
	if (delivery.result != DELIVERY_OK)
	{
		delivery.error_name = rd_kafka_err2name(message->err);
		delivery.error_text = rd_kafka_err2str(message->err);
		delivery.topic = message->rkt ? rd_kafka_topic_name(message->rkt) : "";
		producer->doubts++;
	}
	delivery.opaque = headers_delivered(producer, message);
	return delivery;
}

/* Tells the handler what became of each message of a delivery report. */
static void
take_deliveries(Producer *producer, rd_kafka_event_t *event,
				DeliveryHandler handler, void *arg)
{
	ProducerHandle *handle = producer->event_of;
	const rd_kafka_message_t *message;
	TimestampTz now = monotonic_now();
	bool		is_first = true;

	while ((message = next_delivery(producer, event)) != NULL)
	{
		int			partition = ((HeaderList *) message->_private)->partition;
		Delivery	delivery = describe(producer, message);

		if (is_first)
			placement_note_answered(producer, handle, message, partition);
		is_first = false;
		placement_note_reported(producer, handle, message, partition, now);
		if (producer->gate)
			gate_note_reported(producer, message);
		producer_partitions_note_reported(producer, message,
										  delivery.result == DELIVERY_OK, now);
		handler(arg, &delivery);
	}
}

/* Takes what a handle tells of itself, and adds up what all of them told. */
static void
take_statistics(Producer *producer, rd_kafka_event_t *event)
{
	ProducerStats *stats = &producer->stats;

	statistics_parse(rd_kafka_event_stats(event), &producer->event_of->stats);
	stats->retries = producer->retries_before;
	for (int i = 0; i < producer->nhandles; i++)
		stats->retries += producer->handles[i]->stats.retries;
	if (producer->event_of->stats.round_trip_us >= 0)
		stats->round_trip_us = producer->event_of->stats.round_trip_us;
}

static void
take_event(Producer *producer, rd_kafka_event_t *event,
		   DeliveryHandler handler, void *arg)
{
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_DR:
			take_deliveries(producer, event, handler, arg);
			break;
		case RD_KAFKA_EVENT_ERROR:
			take_error(producer, event);
			break;
		case RD_KAFKA_EVENT_LOG:
			if (event_log_log(producer->event_of->handle, event, producer->stats.error))
				producer->stats.nerrors++;
			break;
		case RD_KAFKA_EVENT_STATS:
			take_statistics(producer, event);
			break;
		default:
			break;
	}
}

/* Is there an event to be served?  The rest of one comes first. */
static bool
has_event(Producer *producer)
{
	for (; producer->event == NULL && producer->polled < producer->nhandles;
		 producer->polled++)
	{
		producer->event_of = producer->handles[producer->polled];
		producer->event = rd_kafka_queue_poll(producer->event_of->queue, 0);
		if (producer->event)
			break;
	}
	return producer->event != NULL;
}

/*
 * Serves everything that has happened: calls the handler for each message
 * that was delivered or not, and keeps errors, log messages and statistics.
 * Does not wait.  The handler may raise an error; the next call then goes on
 * with the next message.  Neither a transaction nor a particular memory
 * context is needed.
 */
void
producer_poll(Producer *producer, DeliveryHandler handler, void *arg)
{
	wake_pipe_empty(&producer->wake);
	producer_topics_poll(producer);
	producer->polled = 0;
	while (has_event(producer))
	{
		take_event(producer, producer->event, handler, arg);
		rd_kafka_event_destroy(producer->event);
		producer->event = NULL;
	}
	if (producer->gate)
		gate_poll(producer, handler, arg);
	events_check_fatal(producer);
	producer_handles_poll(producer);
}
