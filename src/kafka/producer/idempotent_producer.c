/*-------------------------------------------------------------------------
 *
 * idempotent_producer.c
 *	  An idempotent Kafka producer that fits PostgreSQL's process model.
 *
 * librdkafka's threads do the network; the files of this folder are all
 * that touches its handle.  Only the event interface is used, so no frame of
 * librdkafka is on the stack while PostgreSQL code runs, which may raise an
 * error.  New events make a pipe readable, which the owner puts into its wait
 * set.
 *
 * Order of keys: the producer is idempotent and "gapless".  When the broker
 * refuses a batch for good, nothing that was sent after it is written, and
 * the handle is beyond use.  The owner then starts over from what was
 * acknowledged.  There may be several handles, which changes none of that: see
 * partition_placement.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/idempotent_producer.h"

#include "utils/memutils.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/client/error_hints.h"
#include "kafka/client/property_defaults.h"
#include "kafka/client/property_value.h"
#include "kafka/config/config.h"
#include "kafka/producer/compression.h"
#include "kafka/producer/error_class.h"
#include "kafka/producer/flush.h"
#include "kafka/producer/gate.h"
#include "kafka/producer/header_pool.h"
#include "kafka/producer/partition_placement.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_error.h"
#include "kafka/producer/producer_handles.h"
#include "kafka/producer/producer_partitions.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/producer_topics.h"
#include "kafka/producer/producer_transaction.h"

/*
 * What we set unless the administrator does.  A default that the library was
 * built without (compression) is left out.
 *
 * An idempotent producer of this library has one batch of a partition under
 * way at a time, and what arrives meanwhile is the next.  So batches grow with
 * the load by themselves and lingering would only add to the latency: see
 * flush.c.  The queue holds several batches: more would make nothing faster,
 * but the process larger (beside key and value, a message with three headers
 * takes about 700 bytes) and the processor's cache less useful.
 */
static const Setting defaults[] = {
	{"client.id", "outbox"},
	{"message.max.bytes", "1048588"},	/* as brokers: more than the largest
										 * event that publish() takes */
	{"partitioner", "murmur2_random"},	/* that of Kafka's Java client */
	{"compression.codec", "lz4"},
	{"batch.num.messages", "2000"},
	{"queue.buffering.max.messages", "10000"},
	{"queue.buffering.max.kbytes", "32768"},
	{"reconnect.backoff.max.ms", "1000"},
	{"socket.connection.setup.timeout.ms", "10000"},
	{"socket.timeout.ms", "30000"},
	{"socket.keepalive.enable", "true"},
	{"socket.nagle.disable", "true"},
	{"transaction.timeout.ms", "300000"},
};

/*
 * What nobody may change; properties.c has the reasons.
 *
 * More than one request in flight loses events: when a broker that is just
 * becoming leader refuses a new producer's first request and then takes its
 * second, which it does since it knows nothing of that producer yet,
 * librdkafka concludes that it must have taken the first one as well ("implicit
 * ack").  What it gains, several handles do as well.  In Kafka transactions
 * there are more, of different partitions: see gate.c.
 */
static const Setting promises[] = {
	{"enable.idempotence", "true"},
	{"enable.gapless.guarantee", "true"},
	{"acks", "all"},
	{"message.timeout.ms", "0"},
	{"max.in.flight", "1"},
	{"statistics.interval.ms", "5000"},
	{"log.queue", "true"},
};

static void producer_release(void *arg);

/*
 * Makes the library's configuration; NULL and an error when it is refused.
 */
rd_kafka_conf_t *
producer_configure(const KafkaConfig *config, char *error)
{
	rd_kafka_conf_t *conf = client_configure(config, defaults,
											 lengthof(defaults), promises,
											 lengthof(promises), error);

	if (conf == NULL)
		return NULL;
	property_defaults_producer(conf, config);
	if ((config->transactional_id &&
		 !transaction_configure(conf, config->transactional_id, error)) ||
		(gate_is_wanted(config) && !gate_configure(conf, config, error)) ||
		(flush_is_wanted(config) && !flush_configure(conf, config, error)))
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR |
							 RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_STATS);
	return conf;
}

/*
 * Creates the producer's handle and its queue of events.
 */
static bool
open_handle(Producer *producer, const KafkaConfig *config, char *error)
{
	rd_kafka_conf_t *conf = producer_configure(config, error);

	if (conf == NULL)
		return false;
	if (!property_defaults_check_producer(conf, config, error) ||
		!client_check_brokers(conf, config, error))
	{
		rd_kafka_conf_destroy(conf);
		return false;
	}
	producer->partitioner = producer_partitions_partitioner(conf);
	producer->max_bytes = client_number(conf, "message.max.bytes");
	producer->batch_bytes = Min(client_number(conf, "batch.size"), producer->max_bytes);
	producer->compression = compression_configured(conf);
	producer->transaction_ms = client_number(conf, "transaction.timeout.ms");
	if (gate_is_wanted(config))
		gate_create(producer, conf);
	if (flush_is_unwanted(config))
		producer->linger_ms = client_number(conf, "linger.ms");
	producer->max_outstanding = client_number(conf, "queue.buffering.max.messages");
	producer->max_outstanding_bytes = client_number(conf, "queue.buffering.max.kbytes") * 1024;
	producer->refreshed_at = monotonic_now();
	producer->refresh_ms = client_number(conf, "topic.metadata.refresh.interval.ms");
	producer->max_handles = config->transactional_id || flush_is_unwanted(config) ?
		1 : config->connections;
	if (producer_handles_open_first(producer, conf, flush_is_wanted(config), error))
		return true;
	error_hints_refusal(config, error);
	return false;
}

/*
 * Opens a producer; does not wait for a broker.  Returns NULL, with the
 * reason in error (PRODUCER_ERROR_LEN bytes), when the library refuses the
 * configuration.  The producer lives until producer_close().  May raise an
 * error for want of memory, and then leaves nothing behind.
 */
Producer *
producer_open(const KafkaConfig *config, char *error)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox producer",
												  ALLOCSET_DEFAULT_SIZES);
	Producer   *producer = MemoryContextAllocZero(context, sizeof(Producer));

	producer->context = context;
	wake_pipe_init(&producer->wake);
	producer->stats.round_trip_us = -1;
	headers_create(producer);
	producer->release.func = producer_release;
	producer->release.arg = producer;
	MemoryContextRegisterResetCallback(context, &producer->release);
	producer_topics_create(producer);
	if (!wake_pipe_open(&producer->wake, error) ||
		!open_handle(producer, config, error))
	{
		MemoryContextDelete(context);
		return NULL;
	}
	/* Complete; from now on only producer_close() ends it. */
	MemoryContextSetParent(context, TopMemoryContext);
	return producer;
}

/*
 * Gives back what is not memory; runs when the producer's memory context is
 * about to go.  Messages that the producer holds are dropped.  Not so the
 * topics: their table is in a context below, which has gone already.
 */
static void
producer_release(void *arg)
{
	Producer   *producer = arg;

	producer_end_creation(producer);
	/* A thread uses the handle and the pipe: they go with the process. */
	if (transaction_abandon(producer))
	{
		(void) broker_request_abandon(&producer->question, true);
		producer_handles_leave(producer);
		return;
	}
	producer_handles_close(producer);
	gate_destroy(producer);
	headers_destroy(producer);
	wake_pipe_close(&producer->wake);
}

/*
 * Closes a producer and drops the messages that it holds.  Takes no longer
 * than a moment, whatever state the network is in.
 */
void
producer_close(Producer *producer)
{
	producer_topics_destroy(producer);
	MemoryContextDelete(producer->context);
}

/*
 * A file descriptor that becomes readable when producer_poll() has work.
 */
int
producer_event_fd(const Producer *producer)
{
	return producer->wake.read_end;
}

/*
 * Is the producer beyond use?  producer_error() tells why.
 */
bool
producer_is_fatal(const Producer *producer)
{
	return producer->fatal;
}

/*
 * How large a message may be, in bytes, with its key and headers.
 */
int
producer_max_bytes(const Producer *producer)
{
	return producer->max_bytes;
}

/*
 * The most bytes that are sent at once, but for a message that is larger alone.
 */
int
producer_batch_bytes(const Producer *producer)
{
	return producer->batch_bytes;
}

/*
 * How many bytes a broker is sent at once for that message alone, compressed;
 * -1 if that cannot be known.  Takes as long as compressing it.  May raise an
 * error for want of memory.
 */
int
producer_sent_bytes(const Producer *producer, const Message *message)
{
	return compression_size(&producer->compression, message);
}

/*
 * How long, in ms, a message may wait on purpose before it is sent.
 */
int
producer_linger_ms(const Producer *producer)
{
	return producer->linger_ms;
}

/*
 * How long, in ms, a Kafka transaction may last before the coordinator ends it.
 */
int
producer_transaction_ms(const Producer *producer)
{
	return producer->transaction_ms;
}

/*
 * What went wrong in the last call that failed.
 */
const char *
producer_error(const Producer *producer)
{
	return producer->error;
}

/*
 * The library's name of its code.  Never freed.
 */
const char *
producer_error_name(const Producer *producer)
{
	return producer->error_name ? producer->error_name : "";
}

/*
 * Numbers for monitoring, and the last error event.
 */
const ProducerStats *
producer_stats(const Producer *producer)
{
	return &producer->stats;
}

/* Gives a message to one of the handles. */
static rd_kafka_resp_err_t
hand_over(Producer *producer, ProducerHandle *handle, const Message *message,
		  HeaderList *list, int partition)
{
	rd_kafka_topic_t *topic = producer_handles_topic(producer, handle, message->topic);

	if (topic == NULL)
		return rd_kafka_last_error();
	return rd_kafka_producev(handle->handle,
							 RD_KAFKA_V_RKT(topic),
							 RD_KAFKA_V_PARTITION(partition),
							 RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							 RD_KAFKA_V_KEY(message->key.data, message->key.len),
							 RD_KAFKA_V_VALUE((void *) message->value.data,
											  message->value.len),
							 RD_KAFKA_V_TIMESTAMP(message->timestamp_ms),
							 RD_KAFKA_V_HEADERS(list->headers),
							 RD_KAFKA_V_OPAQUE(list),
							 RD_KAFKA_V_END);
}

/* What it means that the library did not take a message, and why. */
static SendResult
judge(Producer *producer, rd_kafka_resp_err_t err)
{
	if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
	{
		if (producer->outstanding > 0)
			return SEND_QUEUE_FULL;
		/* It is empty, and no time will make more room. */
		producer_set_error(producer, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
		strlcpy(producer->error, "larger than queue.buffering.max.kbytes",
				sizeof(producer->error));
		return SEND_TOO_LARGE;
	}
	producer_set_error(producer, err);
	events_check_fatal(producer);
	/* The Kafka transaction has failed: it takes nothing any more. */
	if (producer->fatal || err == RD_KAFKA_RESP_ERR__STATE)
		return SEND_FATAL;
	producer->doubts++;
	return errors_classify(err) == DELIVERY_TOO_LARGE ? SEND_TOO_LARGE :
		SEND_REFUSED;
}

/*
 * Hands a message to the library, which copies it.  Does not wait.  A NULL key,
 * value or header value stays NULL and does not become empty.  Unless it
 * returns SEND_QUEUED or SEND_QUEUE_FULL, producer_error() tells why.  May
 * raise an error for want of memory.
 */
SendResult
producer_send(Producer *producer, const Message *message)
{
	ProducerTopic *topic = message->topic;
	HeaderList *list;
	ProducerHandle *handle;
	rd_kafka_resp_err_t err;
	SendResult	result;
	int			partition;

	partition = placement_partition(producer, topic, message);
	producer->refused = placement_must_wait(producer, message, partition);
	if (producer->refused)
		return SEND_QUEUE_FULL;
	if (producer->gate && gate_send(producer, message, partition, &result))
		return result;
	handle = placement_choose(producer, topic, partition);
	list = headers_make(producer, message);
	list->partition = partition < topic->npartitions ? partition : -1;
	err = hand_over(producer, handle, message, list, partition);

	/* The first handle was asked for the topic; others may know an older one. */
	if (err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION &&
		placement_fall_back(producer, topic, partition, &handle))
		err = hand_over(producer, handle, message, list, partition);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		placement_note_sent(producer, handle, topic, message, list->partition);
		producer_partitions_note_sent(topic);
		if (producer->gate)
			gate_note_sent(producer, message, partition);
	}
	flush_note_sent(producer, handle, err);
	producer->refused = err == RD_KAFKA_RESP_ERR__QUEUE_FULL;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return SEND_QUEUED;
	/* The library takes the headers only with the message. */
	headers_keep(producer, list);
	return judge(producer, err);
}

/*
 * Version of the library that runs, as text.
 */
const char *
producer_library_version(void)
{
	return rd_kafka_version_str();
}

/*
 * Is it older than 2.3, which keeps an idempotent producer alive after
 * disconnects that made it give up before?
 */
bool
producer_library_is_old(void)
{
	return rd_kafka_version() < 0x02030000;
}
