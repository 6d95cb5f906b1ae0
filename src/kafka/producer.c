/*-------------------------------------------------------------------------
 *
 * producer.c
 *	  An idempotent Kafka producer that fits PostgreSQL's process model.
 *
 * librdkafka's threads do the network; this file is all that touches its
 * handle.  Only the event interface is used, so no librdkafka frame is on the
 * stack while PostgreSQL code runs, which may throw.  New events make a pipe
 * readable, which the owner puts into its wait set.
 *
 * Order of keys: the producer is idempotent and "gapless".  When the broker
 * refuses a message for good, nothing that was sent after it to the same
 * partition is written, and the handle is beyond use.  The owner then starts
 * over from what was acknowledged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#include "commands/defrem.h"
#include "libpq/pqsignal.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "kafka/destroy.h"
#include "kafka/errors.h"
#include "kafka/statistics.h"

#define TOPIC_NAME_LEN 250
#define SYSLOG_WARNING 4		/* librdkafka's log levels are syslog's */

struct ProducerTopic
{
	char		name[TOPIC_NAME_LEN];	/* hash key */
	rd_kafka_topic_t *handle;
	bool		ready;			/* is known to exist */
};

struct Producer
{
	MemoryContext context;		/* of this and all it allocates */
	rd_kafka_t *handle;
	rd_kafka_queue_t *queue;
	HTAB	   *topics;
	int			wake_read;
	int			wake_write;
	bool		fatal;
	ProducerStats stats;
	char		error[PRODUCER_ERROR_LEN];	/* of the last call that failed */
	char		last_log[PRODUCER_ERROR_LEN];
};

/*
 * What we set unless the administrator does.  The queue's bounds keep the
 * process small: librdkafka needs about twice the payload for a small message.
 */
static const char *const defaults[][2] = {
	{"client.id", "outbox"},
	{"enable.idempotence", "true"},
	{"enable.gapless.guarantee", "true"},
	{"acks", "all"},
	{"message.timeout.ms", "0"},
	{"message.max.bytes", "1048588"},	/* as brokers: more than the largest
										 * event that publish() takes */
	{"partitioner", "murmur2_random"},
	{"compression.codec", "lz4"},
	{"linger.ms", "0.5"},
	{"queue.buffering.max.kbytes", "32768"},
	{"queue.buffering.max.messages", "50000"},
	{"batch.num.messages", "10000"},
	{"socket.nagle.disable", "true"},
	{"socket.keepalive.enable", "true"},
	{"reconnect.backoff.max.ms", "1000"},
	{"statistics.interval.ms", "5000"},
	{"log.queue", "true"},
	{"log.connection.close", "false"},
};

static bool
set_option(rd_kafka_conf_t *conf, const char *name, const char *value,
		   char *error)
{
	return rd_kafka_conf_set(conf, name, value, error, PRODUCER_ERROR_LEN) ==
		RD_KAFKA_CONF_OK;
}

/* Makes the library's configuration; NULL and an error when it is refused. */
static rd_kafka_conf_t *
make_conf(const KafkaConfig *config, char *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	ListCell   *lc;

	for (int i = 0; i < lengthof(defaults); i++)
		if (!set_option(conf, defaults[i][0], defaults[i][1], error))
			goto refused;
	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (!set_option(conf, option->defname, strVal(option->arg), error))
			goto refused;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR |
							 RD_KAFKA_EVENT_LOG | RD_KAFKA_EVENT_STATS);
	return conf;

refused:
	rd_kafka_conf_destroy(conf);
	return NULL;
}

/*
 * Creates the handle with all signals blocked, since the library's threads
 * inherit our mask and must leave our signals to us.
 */
static rd_kafka_t *
make_handle(rd_kafka_conf_t *conf, char *error)
{
	rd_kafka_t *handle;
	sigset_t	all;
	sigset_t	before;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, PRODUCER_ERROR_LEN);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return handle;
}

static bool
open_pipe(Producer *producer, char *error)
{
	int			fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0)
	{
		snprintf(error, PRODUCER_ERROR_LEN, "could not create a pipe: %s",
				 strerror(errno));
		return false;
	}
	producer->wake_read = fds[0];
	producer->wake_write = fds[1];
	return true;
}

/*
 * Opens a producer.  Does not wait for a broker.  Returns NULL, with the
 * reason in error (PRODUCER_ERROR_LEN bytes), when the library refuses the
 * configuration.  Close it with producer_close().
 */
Producer *
producer_open(const KafkaConfig *config, char *error)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox producer",
												  ALLOCSET_DEFAULT_SIZES);
	Producer   *producer = MemoryContextAllocZero(context, sizeof(Producer));
	HASHCTL		ctl = {.keysize = TOPIC_NAME_LEN,
		.entrysize = sizeof(ProducerTopic),
	.hcxt = context};
	rd_kafka_conf_t *conf;

	producer->context = context;
	producer->stats.round_trip_us = -1;
	producer->topics = hash_create("outbox topics", 64, &ctl,
								   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	if ((conf = make_conf(config, error)) == NULL ||
		!open_pipe(producer, error))
	{
		if (conf)
			rd_kafka_conf_destroy(conf);
		MemoryContextDelete(context);
		return NULL;
	}
	producer->handle = make_handle(conf, error);
	if (producer->handle == NULL)
	{
		rd_kafka_conf_destroy(conf);
		close(producer->wake_read);
		close(producer->wake_write);
		MemoryContextDelete(context);
		return NULL;
	}
	rd_kafka_set_log_queue(producer->handle, NULL);
	producer->queue = rd_kafka_queue_get_main(producer->handle);
	rd_kafka_queue_io_event_enable(producer->queue, producer->wake_write, "1", 1);
	return producer;
}

/*
 * Closes a producer and drops the messages that it holds.
 */
void
producer_close(Producer *producer)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;
	rd_kafka_event_t *event;

	rd_kafka_purge(producer->handle, RD_KAFKA_PURGE_F_QUEUE |
				   RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
	while ((event = rd_kafka_queue_poll(producer->queue, 0)) != NULL)
		rd_kafka_event_destroy(event);

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		rd_kafka_topic_destroy(topic->handle);
	rd_kafka_queue_destroy(producer->queue);
	destroy_handle(producer->handle);
	close(producer->wake_read);
	close(producer->wake_write);
	MemoryContextDelete(producer->context);
}

/*
 * A file descriptor that becomes readable when producer_poll() has work.
 */
int
producer_event_fd(const Producer *producer)
{
	return producer->wake_read;
}

/* Tells the handler what became of each message of a delivery report. */
static void
report_deliveries(Producer *producer, rd_kafka_event_t *event,
				  DeliveryHandler handler, void *arg)
{
	const rd_kafka_message_t *message;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		Delivery	delivery = {
			.opaque = (uint64) (uintptr_t) message->_private,
			.result = errors_classify(message->err),
			.error_name = "",
			.error_text = "",
			.bytes = (int) (message->len + message->key_len),
		};

		if (delivery.result != DELIVERY_OK)
		{
			delivery.error_name = rd_kafka_err2name(message->err);
			delivery.error_text = rd_kafka_err2str(message->err);
		}
		handler(arg, &delivery);
	}
}

/*
 * Remembers an error event; a fatal one ends the producer.  That all brokers
 * are down says less than what was wrong with the last of them.
 */
static void
take_error(Producer *producer, rd_kafka_event_t *event)
{
	ProducerStats *stats = &producer->stats;
	rd_kafka_resp_err_t error = rd_kafka_event_error(event);

	if (error == RD_KAFKA_RESP_ERR__FATAL ||
		rd_kafka_event_error_is_fatal(event))
	{
		(void) rd_kafka_fatal_error(producer->handle, producer->error,
									sizeof(producer->error));
		strlcpy(stats->error, producer->error, sizeof(stats->error));
		producer->fatal = true;
	}
	else if (error != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN ||
			 stats->error[0] == '\0')
		snprintf(stats->error, sizeof(stats->error), "%s",
				 rd_kafka_event_error_string(event));
	stats->nerrors++;
}

/* Logs what librdkafka logs, leaving out what it repeats. */
static void
take_log(Producer *producer, rd_kafka_event_t *event)
{
	const char *facility;
	const char *text;
	int			level;

	if (rd_kafka_event_log(event, &facility, &text, &level) != 0)
		return;

	/*
	 * CONFWARN is about what we set on purpose, and FATAL comes as an error
	 * event too.
	 */
	if (level > SYSLOG_WARNING || strcmp(facility, "CONFWARN") == 0 ||
		strcmp(facility, "FATAL") == 0)
		ereport(DEBUG1, (errmsg_internal("librdkafka: %s: %s", facility, text)));
	else if (strcmp(facility, producer->last_log) != 0)
	{
		strlcpy(producer->last_log, facility, sizeof(producer->last_log));
		ereport(LOG, (errmsg("librdkafka: %s: %s", facility, text)));
	}
}

static void
take_event(Producer *producer, rd_kafka_event_t *event,
		   DeliveryHandler handler, void *arg)
{
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_DR:
			report_deliveries(producer, event, handler, arg);
			break;
		case RD_KAFKA_EVENT_ERROR:
			take_error(producer, event);
			break;
		case RD_KAFKA_EVENT_LOG:
			take_log(producer, event);
			break;
		case RD_KAFKA_EVENT_STATS:
			statistics_parse(rd_kafka_event_stats(event), &producer->stats);
			break;
		default:
			break;
	}
}

/* Takes an event and frees it, also when the handler throws. */
static void
serve_event(Producer *producer, rd_kafka_event_t *event,
			DeliveryHandler handler, void *arg)
{
	PG_TRY();
	{
		take_event(producer, event, handler, arg);
	}
	PG_FINALLY();
	{
		rd_kafka_event_destroy(event);
	}
	PG_END_TRY();
}

/*
 * Serves everything that has happened: calls the handler for each message
 * that was delivered or not, and keeps errors, logs and statistics.  Does not
 * wait.  The handler may throw.
 */
void
producer_poll(Producer *producer, DeliveryHandler handler, void *arg)
{
	rd_kafka_event_t *event;
	char		buffer[64];

	/* First the pipe, then the queue: the other order can lose a wake-up. */
	while (read(producer->wake_read, buffer, sizeof(buffer)) > 0)
		;
	while ((event = rd_kafka_queue_poll(producer->queue, 0)) != NULL)
		serve_event(producer, event, handler, arg);
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
 * What went wrong in the last call that failed.
 */
const char *
producer_error(const Producer *producer)
{
	return producer->error;
}

/*
 * Numbers for monitoring, and the last error event.
 */
const ProducerStats *
producer_stats(const Producer *producer)
{
	return &producer->stats;
}

/*
 * The topic of that name; NULL when the library refuses the name.
 */
ProducerTopic *
producer_topic(Producer *producer, const char *name)
{
	char		key[TOPIC_NAME_LEN];
	ProducerTopic *topic;
	rd_kafka_topic_t *handle;

	strlcpy(key, name, sizeof(key));
	topic = hash_search(producer->topics, key, HASH_FIND, NULL);
	if (topic != NULL)
		return topic;
	handle = rd_kafka_topic_new(producer->handle, name, NULL);
	if (handle == NULL)
	{
		strlcpy(producer->error, rd_kafka_err2str(rd_kafka_last_error()),
				sizeof(producer->error));
		return NULL;
	}
	topic = hash_search(producer->topics, key, HASH_ENTER, NULL);
	topic->handle = handle;
	topic->ready = false;
	return topic;
}

/* What a metadata answer says about its one topic. */
static TopicStatus
status_from_metadata(Producer *producer, const struct rd_kafka_metadata *metadata)
{
	rd_kafka_resp_err_t err = metadata->topic_cnt == 1 ?
	metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return metadata->topics[0].partition_cnt > 0 ? TOPIC_READY : TOPIC_UNKNOWN;
	strlcpy(producer->error, rd_kafka_err2str(err), sizeof(producer->error));
	return errors_classify(err) == DELIVERY_REFUSED ? TOPIC_REFUSED : TOPIC_UNKNOWN;
}

/*
 * Can the topic take messages?  Asks the broker, waiting up to timeout_ms,
 * until the answer was yes once.  Asking creates the topic where the broker
 * does that.
 */
TopicStatus
producer_topic_status(Producer *producer, ProducerTopic *topic, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	TopicStatus status;

	if (topic->ready)
		return TOPIC_READY;
	err = rd_kafka_metadata(producer->handle, 0, topic->handle, &metadata,
							timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		strlcpy(producer->error, rd_kafka_err2str(err), sizeof(producer->error));
		return TOPIC_UNREACHABLE;
	}
	status = status_from_metadata(producer, metadata);
	rd_kafka_metadata_destroy(metadata);
	topic->ready = status == TOPIC_READY;
	return status;
}

/*
 * Does a broker answer within timeout_ms?
 */
bool
producer_connect(Producer *producer, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;

	if (rd_kafka_metadata(producer->handle, 0, NULL, &metadata, timeout_ms) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	rd_kafka_metadata_destroy(metadata);
	return true;
}

static rd_kafka_headers_t *
make_headers(const Message *message)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(message->nheaders);

	for (int i = 0; i < message->nheaders; i++)
	{
		const MessageHeader *header = &message->headers[i];

		rd_kafka_header_add(headers, header->name, header->name_len,
							header->value.data, header->value.len);
	}
	return headers;
}

/*
 * Hands a message to the library, which copies it.  Does not wait.
 */
SendResult
producer_send(Producer *producer, const Message *message)
{
	rd_kafka_headers_t *headers = make_headers(message);
	rd_kafka_resp_err_t err;

	err = rd_kafka_producev(producer->handle,
							RD_KAFKA_V_RKT(message->topic->handle),
							RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_KEY(message->key.data, message->key.len),
							RD_KAFKA_V_VALUE((void *) message->value.data,
											 message->value.len),
							RD_KAFKA_V_TIMESTAMP(message->timestamp_ms),
							RD_KAFKA_V_HEADERS(headers),
							RD_KAFKA_V_OPAQUE((void *) (uintptr_t) message->opaque),
							RD_KAFKA_V_END);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return SEND_QUEUED;

	/* The library takes the headers only with the message. */
	rd_kafka_headers_destroy(headers);
	if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return SEND_QUEUE_FULL;
	strlcpy(producer->error, rd_kafka_err2str(err), sizeof(producer->error));
	if (err == RD_KAFKA_RESP_ERR__FATAL)
	{
		(void) rd_kafka_fatal_error(producer->handle, producer->error,
									sizeof(producer->error));
		producer->fatal = true;
		return SEND_FATAL;
	}
	return SEND_REFUSED;
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
