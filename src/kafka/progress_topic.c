/*-------------------------------------------------------------------------
 *
 * progress_topic.c
 *	  The Kafka topic that says how far a relay has come: making it, and
 *	  reading its last record.
 *
 * The topic has one partition.  Each Kafka transaction of a relay ends with a
 * record there, and only the last one that was committed counts.  All of them
 * have the same key, so compaction keeps the topic small; but it lags behind,
 * so the topic is read from its end: some records at first, and more of them
 * as long as none of those was committed.
 *
 * Nothing here waits longer than it is told.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "kafka/destroy.h"
#include "kafka/errors.h"
#include "kafka/handle.h"
#include "kafka/progress_topic.h"

/* Offsets to read at first, and how much further each time that is too few. */
#define FIRST_TAIL 100
#define TAIL_FACTOR 16

/* So that the server's disk does not fill before compaction sets in. */
#define SEGMENT_BYTES "16777216"

struct ProgressReader
{
	MemoryContext context;		/* of this and all it allocates */
	MemoryContextCallback release;	/* gives back what is not memory */
	rd_kafka_t *handle;
	rd_kafka_topic_t *topic;
	bool		started;
	int64		low;			/* first offset of the topic */
	int64		start;			/* where reading began */
	int64		tail;			/* how many offsets before the end */
	char	   *record;			/* the last one so far */
	int			len;
	char		name[TOPIC_NAME_LEN];
	char		error[PRODUCER_ERROR_LEN];
};

static void
reader_release(void *arg)
{
	ProgressReader *reader = arg;

	if (reader->started)
		rd_kafka_consume_stop(reader->topic, 0);
	if (reader->topic)
		rd_kafka_topic_destroy(reader->topic);
	if (reader->handle)
		destroy_handle(reader->handle);
}

/*
 * Makes the library's configuration of a reader; NULL and an error when it is
 * refused.
 */
rd_kafka_conf_t *
progress_reader_configure(const KafkaConfig *config, char *error)
{
	static const Setting defaults[] = {
		{"client.id", "outbox"},
	};
	static const Setting promises[] = {
		{"isolation.level", "read_committed"},
		{"enable.partition.eof", "true"},
		{"fetch.wait.max.ms", "10"},
	};
	rd_kafka_conf_t *conf = handle_configure(config, defaults,
											 lengthof(defaults), promises,
											 lengthof(promises), error);

	if (conf)
		adjust_consumer(conf, config);
	return conf;
}

/*
 * Opens a reader of the topic; does not wait for a broker.  Returns NULL, with
 * the reason in error (PRODUCER_ERROR_LEN bytes), when the library refuses the
 * configuration.  Lives in the current memory context.
 */
ProgressReader *
progress_reader_open(const KafkaConfig *config, const char *topic, char *error)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox progress reader",
												  ALLOCSET_DEFAULT_SIZES);
	ProgressReader *reader = MemoryContextAllocZero(context, sizeof(ProgressReader));
	rd_kafka_conf_t *conf = progress_reader_configure(config, error);

	reader->context = context;
	reader->tail = FIRST_TAIL;
	strlcpy(reader->name, topic, sizeof(reader->name));
	if (conf)
	{
		/* What it has to say, the producer says as well. */
		rd_kafka_conf_set_log_cb(conf, NULL);
		reader->handle = handle_create(RD_KAFKA_CONSUMER, conf, error);
	}
	if (reader->handle == NULL)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	reader->release.func = reader_release;
	reader->release.arg = reader;
	MemoryContextRegisterResetCallback(context, &reader->release);
	reader->topic = rd_kafka_topic_new(reader->handle, topic, NULL);
	if (reader->topic == NULL)
	{
		strlcpy(error, rd_kafka_err2str(rd_kafka_last_error()), PRODUCER_ERROR_LEN);
		MemoryContextDelete(context);
		return NULL;
	}
	return reader;
}

static ReadStatus
cannot_reach(ProgressReader *reader, rd_kafka_resp_err_t err)
{
	strlcpy(reader->error, rd_kafka_err2str(err), sizeof(reader->error));
	return READ_UNREACHABLE;
}

/* Finds out where to begin, and begins. */
static ReadStatus
start_reading(ProgressReader *reader, int timeout_ms)
{
	int64		high;
	rd_kafka_resp_err_t err;

	err = rd_kafka_query_watermark_offsets(reader->handle, reader->name, 0,
										   &reader->low, &high, timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return cannot_reach(reader, err);
	if (high <= reader->low)
		return READ_DONE;
	reader->start = Max(reader->low, high - reader->tail);
	if (rd_kafka_consume_start(reader->topic, 0, reader->start) != 0)
		return cannot_reach(reader, rd_kafka_last_error());
	reader->started = true;
	return READ_MORE;
}

/* The end was reached: that is all, unless there was nothing before it. */
static ReadStatus
take_end(ProgressReader *reader)
{
	rd_kafka_consume_stop(reader->topic, 0);
	reader->started = false;
	if (reader->record || reader->start <= reader->low)
		return READ_DONE;
	reader->tail *= TAIL_FACTOR;
	return READ_MORE;
}

static void
take_record(ProgressReader *reader, const rd_kafka_message_t *message)
{
	if (reader->record)
		pfree(reader->record);
	reader->record = MemoryContextAlloc(reader->context, message->len + 1);
	memcpy(reader->record, message->payload, message->len);
	reader->len = message->len;
}

/*
 * Reads a bit further, waiting for no longer than timeout_ms.
 */
ReadStatus
progress_reader_step(ProgressReader *reader, int timeout_ms)
{
	rd_kafka_message_t *message;
	rd_kafka_resp_err_t err;

	if (!reader->started)
		return start_reading(reader, timeout_ms);
	/* Events of the handle itself; there are no callbacks. */
	rd_kafka_poll(reader->handle, 0);
	message = rd_kafka_consume(reader->topic, 0, timeout_ms);
	if (message == NULL)
		return READ_MORE;
	err = message->err;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && message->payload != NULL)
		take_record(reader, message);
	rd_kafka_message_destroy(message);
	if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return take_end(reader);
	return err == RD_KAFKA_RESP_ERR_NO_ERROR ? READ_MORE :
		cannot_reach(reader, err);
}

/*
 * After READ_DONE: the last record, which lives as long as the reader, and its
 * length in bytes; NULL when there is none.
 */
const char *
progress_reader_record(const ProgressReader *reader, int *len)
{
	*len = reader->len;
	return reader->record;
}

/*
 * After READ_UNREACHABLE: why.
 */
const char *
progress_reader_error(const ProgressReader *reader)
{
	return reader->error;
}

void
progress_reader_close(ProgressReader *reader)
{
	MemoryContextDelete(reader->context);
}

/* What the answer to a request to create the topic means. */
static TopicStatus
judge_creation(Producer *producer, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const char *text = rd_kafka_event_error_string(event);
	size_t		count = 0;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		const		rd_kafka_topic_result_t **topics =
		rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event),
											&count);

		if (count == 1)
		{
			err = rd_kafka_topic_result_error(topics[0]);
			text = rd_kafka_topic_result_error_string(topics[0]);
		}
	}
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR ||
		err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
		return TOPIC_READY;
	strlcpy(producer->error, text ? text : rd_kafka_err2str(err),
			sizeof(producer->error));
	return errors_classify(err) == DELIVERY_REFUSED ? TOPIC_REFUSED :
		TOPIC_UNREACHABLE;
}

/*
 * Creates the topic unless it exists, waiting for no longer than timeout_ms.
 * Returns TOPIC_READY, TOPIC_REFUSED or TOPIC_UNREACHABLE; producer_error()
 * explains the latter.
 */
TopicStatus
progress_topic_create(Producer *producer, const char *name, int timeout_ms)
{
	rd_kafka_t *handle = producer->handle;
	rd_kafka_NewTopic_t *topic;
	rd_kafka_AdminOptions_t *options;
	rd_kafka_queue_t *queue;
	rd_kafka_event_t *event;
	TopicStatus status = TOPIC_UNREACHABLE;

	topic = rd_kafka_NewTopic_new(name, 1, -1, producer->error,
								  sizeof(producer->error));
	if (topic == NULL)
		return TOPIC_REFUSED;
	(void) rd_kafka_NewTopic_set_config(topic, "cleanup.policy", "compact");
	(void) rd_kafka_NewTopic_set_config(topic, "segment.bytes", SEGMENT_BYTES);
	options = rd_kafka_AdminOptions_new(handle, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	(void) rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, NULL, 0);
	queue = rd_kafka_queue_new(handle);
	rd_kafka_CreateTopics(handle, &topic, 1, options, queue);
	event = rd_kafka_queue_poll(queue, timeout_ms);
	if (event)
	{
		status = judge_creation(producer, event);
		rd_kafka_event_destroy(event);
	}
	else
		strlcpy(producer->error, "no broker answers", sizeof(producer->error));
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_NewTopic_destroy(topic);
	return status;
}
