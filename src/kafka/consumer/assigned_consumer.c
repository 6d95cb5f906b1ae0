/*-------------------------------------------------------------------------
 *
 * assigned_consumer.c
 *	  A Kafka consumer that fits PostgreSQL's process model.
 *
 * It joins no group.  The owner says which partitions it shall read, from
 * offsets that he keeps himself, so nothing ever rebalances.  The group's
 * name serves only to show the owner's offsets to Kafka's tools.
 *
 * As with the producer, librdkafka's threads do the network, only the event
 * interface is used, and new events make a pipe readable.  A record is handed
 * out together with the event that holds it, and nothing is copied: the owner
 * gives it back when its transaction is over.
 *
 * The library fetches ahead.  How far is bounded by bytes, because a backlog
 * may be of any size and a worker should stay small.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/consumer/assigned_consumer.h"

#include "utils/memutils.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/client/destroy.h"
#include "kafka/client/error_hints.h"
#include "kafka/client/event_log.h"
#include "kafka/client/property_defaults.h"
#include "kafka/config/config.h"
#include "kafka/consumer/consumer.h"
#include "kafka/consumer/consumer_errors.h"
#include "kafka/consumer/consumer_metadata.h"
#include "kafka/consumer/consumer_state.h"

/*
 * What we set unless the administrator does.  The bounds on fetching keep a
 * worker below 100 MB whatever the backlog.  When the library has fetched as
 * much as it may, it looks again after fetch.error.backoff.ms.
 */
static const Setting defaults[] = {
	{"client.id", "outbox"},
	{"queued.max.messages.kbytes", "16384"},
	{"queued.min.messages", "20000"},
	{"fetch.max.bytes", "4194304"},
	{"fetch.error.backoff.ms", "50"},
	{"reconnect.backoff.max.ms", "1000"},
	{"socket.connection.setup.timeout.ms", "10000"},
	{"socket.timeout.ms", "30000"},
	{"socket.keepalive.enable", "true"},
	{"socket.nagle.disable", "true"},
};

/*
 * What nobody may change.  The position lives in PostgreSQL, and an offset
 * that is no longer there must be heard of.
 */
static const Setting promises[] = {
	{"enable.auto.commit", "false"},
	{"enable.auto.offset.store", "false"},
	{"enable.partition.eof", "true"},
	{"auto.offset.reset", "error"},
	{"allow.auto.create.topics", "false"},
	{"statistics.interval.ms", "0"},
	{"log.queue", "true"},
};

static void consumer_free(void *arg);

/*
 * Makes the library's configuration; NULL and an error when it is refused.
 * Properties that are for producers only do no harm.
 */
rd_kafka_conf_t *
consumer_configure(const KafkaConfig *config, const char *group,
				   const char *isolation, char *error)
{
	rd_kafka_conf_t *conf = client_configure(config, defaults,
											 lengthof(defaults), promises,
											 lengthof(promises), error);

	if (conf == NULL)
		return NULL;
	property_defaults_consumer(conf, config);
	if (rd_kafka_conf_set(conf, "group.id", group, error,
						  CONSUMER_ERROR_LEN) != RD_KAFKA_CONF_OK ||
		rd_kafka_conf_set(conf, "isolation.level", isolation, error,
						  CONSUMER_ERROR_LEN) != RD_KAFKA_CONF_OK)
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_FETCH | RD_KAFKA_EVENT_ERROR |
							 RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_OFFSET_COMMIT);
	return conf;
}

/* Creates the handle and one queue of all events. */
static bool
open_handle(Consumer *consumer, const KafkaConfig *config,
			rd_kafka_conf_t *conf, char *error)
{
	if (!client_check_brokers(conf, config, error))
	{
		rd_kafka_conf_destroy(conf);
		return false;
	}
	consumer->handle = client_create(RD_KAFKA_CONSUMER, conf, error);
	if (consumer->handle == NULL)
	{
		error_hints_refusal(config, error);
		return false;
	}
	rd_kafka_poll_set_consumer(consumer->handle);
	consumer->queue = rd_kafka_queue_get_consumer(consumer->handle);
	rd_kafka_set_log_queue(consumer->handle, consumer->queue);
	wake_pipe_watch(&consumer->wake, consumer->queue);
	return true;
}

/*
 * Opens a consumer; does not wait for a broker.  isolation is
 * "read_committed" or "read_uncommitted".  Returns NULL, with the reason in
 * error (CONSUMER_ERROR_LEN bytes), when the library refuses the
 * configuration.  The consumer lives until consumer_close().  May raise an
 * error for want of memory, and then leaves nothing behind.
 */
Consumer *
consumer_open(const KafkaConfig *config, const char *group,
			  const char *isolation, char *error)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox consumer",
												  ALLOCSET_DEFAULT_SIZES);
	Consumer   *consumer = MemoryContextAllocZero(context, sizeof(Consumer));
	rd_kafka_conf_t *conf;

	consumer->context = context;
	wake_pipe_init(&consumer->wake);
	consumer->release.func = consumer_free;
	consumer->release.arg = consumer;
	MemoryContextRegisterResetCallback(context, &consumer->release);
	if (!wake_pipe_open(&consumer->wake, error) ||
		(conf = consumer_configure(config, group, isolation, error)) == NULL ||
		!open_handle(consumer, config, conf, error))
	{
		MemoryContextDelete(context);
		return NULL;
	}
	/* Complete; from now on only consumer_close() ends it. */
	MemoryContextSetParent(context, TopMemoryContext);
	return consumer;
}

/*
 * Gives back what is not memory; runs when the consumer's memory context is
 * about to go.
 */
static void
consumer_free(void *arg)
{
	Consumer   *consumer = arg;

	discovery_forget(consumer);
	if (consumer->handle)
	{
		rd_kafka_event_t *event;

		rd_kafka_queue_io_event_enable(consumer->queue, -1, NULL, 0);
		while ((event = rd_kafka_queue_poll(consumer->queue, 0)) != NULL)
			rd_kafka_event_destroy(event);
		rd_kafka_queue_destroy(consumer->queue);
		if (!broker_request_abandon(&consumer->question, false))
			destroy_handle(consumer->handle);
	}
	wake_pipe_close(&consumer->wake);
}

/*
 * Closes a consumer, of which no record is held any more.  Takes no longer
 * than a moment, whatever state the network is in.
 */
void
consumer_close(Consumer *consumer)
{
	MemoryContextDelete(consumer->context);
}

/*
 * A file descriptor that becomes readable when consumer_fetch() has work.
 */
int
consumer_event_fd(const Consumer *consumer)
{
	return consumer->wake.read_end;
}

/*
 * What went wrong in the last call that failed.
 */
const char *
consumer_error(const Consumer *consumer)
{
	return consumer->error;
}

/*
 * Did it fail without an answer from a broker?
 */
bool
consumer_unreached(const Consumer *consumer)
{
	return consumer->err < 0;
}

/*
 * Did it fail because there is no such topic?
 */
bool
consumer_topic_unknown(const Consumer *consumer)
{
	return consumer->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
}

/*
 * The errors that came as events.
 */
const ConsumerStats *
consumer_stats(const Consumer *consumer)
{
	return &consumer->stats;
}

/* Makes the library's list out of ours. */
static rd_kafka_topic_partition_list_t *
make_list(const ConsumerPartition *partitions, int n)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(n);

	for (int i = 0; i < n; i++)
		rd_kafka_topic_partition_list_add(list, partitions[i].topic,
										  partitions[i].partition)->offset =
			partitions[i].offset;
	return list;
}

/*
 * Reads these partitions from now on, and no others; none pauses.  What was
 * fetched before may still come.
 */
bool
consumer_assign(Consumer *consumer, const ConsumerPartition *partitions, int n)
{
	rd_kafka_topic_partition_list_t *list = make_list(partitions, n);
	rd_kafka_resp_err_t err = rd_kafka_assign(consumer->handle, list);

	rd_kafka_topic_partition_list_destroy(list);
	return !consumer_failed(consumer, err);
}

/*
 * Reads partitions that are assigned from an offset on, once more.  Does not
 * wait.  What comes of them from now on was fetched after this call, and a
 * partition without messages reports its end again.
 */
void
consumer_seek(Consumer *consumer, const ConsumerPartition *partitions, int n)
{
	rd_kafka_topic_partition_list_t *list = make_list(partitions, n);
	rd_kafka_error_t *error = rd_kafka_seek_partitions(consumer->handle, list, 0);

	/* One that is not being read yet has been assigned just now. */
	if (error)
		rd_kafka_error_destroy(error);
	rd_kafka_topic_partition_list_destroy(list);
}

/*
 * Makes a record of a message.  Returns false when it is no message but an
 * error in its place.
 */
static bool
take_message(rd_kafka_event_t *event, ConsumerRecord *record)
{
	const rd_kafka_message_t *message = rd_kafka_event_message_next(event);
	rd_kafka_timestamp_type_t type;

	if (message == NULL || message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	record->event = event;
	record->message = message;
	record->topic = rd_kafka_topic_name(message->rkt);
	record->partition = message->partition;
	record->offset = message->offset;
	record->timestamp_ms = rd_kafka_message_timestamp(message, &type);
	record->key.data = message->key;
	record->key.len = message->key ? (int) message->key_len : 0;
	record->value.data = message->payload;
	record->value.len = message->payload ? (int) message->len : 0;
	return true;
}

/*
 * Takes messages that have come: up to max, and no more once they hold
 * max_bytes.  Keeps errors and log messages.  Does not wait.  Returns their
 * number, and in *more whether there may be more, of which the file descriptor
 * does not tell.  The caller owns the records and must give them back.
 *
 * Where a partition was read to its end, with these records, the handler is
 * told, which must not raise an error: all before that offset was returned or
 * is not for consumers.  So it is when a partition cannot be read, or not from
 * the offset that was asked for.
 */
int
consumer_fetch(Consumer *consumer, ConsumerRecord *records, int max,
			   Size max_bytes, const ConsumerHandler *handler, bool *more)
{
	Size		bytes = 0;
	int			n = 0;

	*more = true;

	wake_pipe_empty(&consumer->wake);
	while (n < max && bytes < max_bytes)
	{
		rd_kafka_event_t *event = rd_kafka_queue_poll(consumer->queue, 0);

		if (event == NULL)
		{
			*more = false;
			break;
		}
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_FETCH:
				if (take_message(event, &records[n]))
				{
					bytes += records[n].key.len + records[n].value.len;
					n++;
					continue;
				}
				break;
			case RD_KAFKA_EVENT_ERROR:
				consumer_take_error(consumer, event, handler);
				break;
			case RD_KAFKA_EVENT_LOG:
				if (event_log_log(consumer->handle, event, consumer->stats.error))
				{
					consumer->stats.nerrors++;
					consumer->stats.ndoubts++;
				}
				break;
			case RD_KAFKA_EVENT_OFFSET_COMMIT:
				consumer_take_commit(consumer, event);
				break;
			default:
				break;
		}
		rd_kafka_event_destroy(event);
	}
	return n;
}

/*
 * Leaves what has come for later: until more comes, the file descriptor is not
 * readable, though there may be messages.
 */
void
consumer_leave(Consumer *consumer)
{
	wake_pipe_empty(&consumer->wake);
}

/*
 * The headers of a record, in order; NULL for a value that is null.  Returns
 * how many there are, of which at most max are stored.
 */
int
consumer_headers(const ConsumerRecord *record, ConsumerHeader *headers, int max)
{
	rd_kafka_headers_t *all;
	const void *value;
	size_t		size;
	int			n = 0;

	if (rd_kafka_message_headers(record->message, &all) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return 0;
	while (n < max &&
		   rd_kafka_header_get_all(all, n, &headers[n].name, &value,
								   &size) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		headers[n].value.data = value;
		headers[n].value.len = (int) size;
		n++;
	}
	return n < max ? n : (int) rd_kafka_header_cnt(all);
}

/*
 * Gives records back.
 */
void
consumer_release(ConsumerRecord *records, int n)
{
	for (int i = 0; i < n; i++)
	{
		rd_kafka_event_destroy(records[i].event);
		records[i].event = NULL;
	}
}

/*
 * Shows offsets to Kafka's tools, as those of the group.  Does not wait: when
 * it fails, ngroup_errors of the statistics will grow.
 */
void
consumer_commit(Consumer *consumer, const ConsumerPartition *partitions, int n)
{
	rd_kafka_topic_partition_list_t *list = make_list(partitions, n);

	/* Other than rd_kafka_commit(), this one tells how it ended. */
	(void) rd_kafka_commit_queue(consumer->handle, list, consumer->queue, NULL,
								 NULL);
	rd_kafka_topic_partition_list_destroy(list);
}
