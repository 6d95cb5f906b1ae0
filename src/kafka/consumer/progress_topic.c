/*-------------------------------------------------------------------------
 *
 * progress_topic.c
 *	  The Kafka topic that says how far a relay has come: looking at it, and
 *	  reading its last records.
 *
 * Each Kafka transaction of a relay ends with a record there, and only the last
 * one that was committed counts.  All of them have the same key, so compaction
 * keeps the topic small; but it lags behind, so the topic is read from its end:
 * some records at first, and more of them when there is none among those that
 * the caller takes for one of ours.
 *
 * A handle that reads never has a broker make the topic, as one that writes
 * would: see progress_topic_check.c.
 *
 * Nothing here waits longer than it is told.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/consumer/progress_topic.h"

#include "utils/memutils.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/client.h"
#include "kafka/client/destroy.h"
#include "kafka/client/property_defaults.h"
#include "kafka/config/config.h"
#include "kafka/consumer/progress_state.h"
#include "kafka/consumer/progress_topic_check.h"

/* Offsets to read at first, and how much further each time that is too few. */
#define FIRST_TAIL 100
#define TAIL_FACTOR 16

struct ProgressTopic
{
	MemoryContext context;		/* of this and all it allocates */
	MemoryContextCallback release;	/* gives back what is not memory */
	rd_kafka_t *handle;
	rd_kafka_topic_t *topic;
	ProgressLook *look;			/* the last one; NULL before */
	bool		reading;
	int64		start;			/* where that begins */
	int64		tail;			/* how many offsets before the end */
	rd_kafka_message_t *message;	/* the last that was read */
	char		name[TOPIC_NAME_LEN];
	char		error[PRODUCER_ERROR_LEN];
};

static void
forget_message(ProgressTopic *topic)
{
	if (topic->message)
		rd_kafka_message_destroy(topic->message);
	topic->message = NULL;
}

static void
stop_reading(ProgressTopic *topic)
{
	forget_message(topic);
	if (topic->reading)
		rd_kafka_consume_stop(topic->topic, 0);
	topic->reading = false;
}

static void
topic_release(void *arg)
{
	ProgressTopic *topic = arg;

	/* A thread uses the handle: both go with the process. */
	if (topic->look && !progress_topic_check_is_done(topic->look))
		return;
	free(topic->look);
	stop_reading(topic);
	if (topic->topic)
		rd_kafka_topic_destroy(topic->topic);
	if (topic->handle)
		destroy_handle(topic->handle);
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
		{"auto.offset.reset", "error"},
		{"allow.auto.create.topics", "false"},
		{"fetch.wait.max.ms", "10"},
	};
	rd_kafka_conf_t *conf = client_configure(config, defaults,
											 lengthof(defaults), promises,
											 lengthof(promises), error);

	if (conf)
		property_defaults_consumer(conf, config);
	return conf;
}

/* Makes the library's handle. */
static rd_kafka_t *
open_handle(const KafkaConfig *config, char *error)
{
	rd_kafka_conf_t *conf = progress_reader_configure(config, error);

	if (conf == NULL)
		return NULL;
	/* What it has to say, the producer says as well. */
	rd_kafka_conf_set_log_cb(conf, NULL);
	return client_create(RD_KAFKA_CONSUMER, conf, error);
}

/*
 * Prepares to look at the topic and read it; does not wait for a broker.
 * Returns NULL, with the reason in error (PRODUCER_ERROR_LEN bytes), when the
 * library refuses the configuration.  Lives in the current memory context.
 */
ProgressTopic *
progress_topic_open(const KafkaConfig *config, const char *name, char *error)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox progress topic",
												  ALLOCSET_DEFAULT_SIZES);
	ProgressTopic *topic = MemoryContextAllocZero(context, sizeof(ProgressTopic));

	topic->context = context;
	topic->release.func = topic_release;
	topic->release.arg = topic;
	MemoryContextRegisterResetCallback(context, &topic->release);
	strlcpy(topic->name, name, sizeof(topic->name));
	topic->handle = open_handle(config, error);
	if (topic->handle)
	{
		topic->topic = rd_kafka_topic_new(topic->handle, name, NULL);
		if (topic->topic)
			return topic;
		strlcpy(error, rd_kafka_err2str(rd_kafka_last_error()),
				PRODUCER_ERROR_LEN);
	}
	MemoryContextDelete(context);
	return NULL;
}

/*
 * Starts to look at the topic.  Strict: creates it if there is none, and
 * accepts no other than a relay can rely on.  Reading begins anew.  Raises an
 * error when there is no thread to be had.
 */
void
progress_topic_look(ProgressTopic *topic, bool strict)
{
	stop_reading(topic);
	free(topic->look);
	topic->look = NULL;
	topic->look = progress_topic_check_start(topic->handle, topic->topic, topic->name,
											 strict);
}

/*
 * What the look has found; progress_topic_error() explains PROGRESS_UNFIT and
 * PROGRESS_UNREACHABLE, and says after PROGRESS_READY what could not be found
 * out, or "".
 */
ProgressState
progress_topic_state(ProgressTopic *topic)
{
	if (!progress_topic_check_is_done(topic->look))
		return PROGRESS_LOOKING;
	strlcpy(topic->error, topic->look->error, sizeof(topic->error));
	topic->tail = FIRST_TAIL;
	topic->start = Max(topic->look->low, topic->look->high - topic->tail);
	return topic->look->state;
}

/* Reading failed. */
static ReadStatus
read_failed(ProgressTopic *topic, rd_kafka_resp_err_t err)
{
	stop_reading(topic);
	if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
	{
		snprintf(topic->error, sizeof(topic->error),
				 "the relay may not read the topic \"%s\"; grant it Read on the topic",
				 topic->name);
		return READ_REFUSED;
	}
	strlcpy(topic->error, rd_kafka_err2str(err), sizeof(topic->error));
	return READ_FAILED;
}

/* What there is to be seen of the topic ends at an offset. */
static ReadStatus
take_end(ProgressTopic *topic, int64 offset)
{
	int64		low;
	int64		high;

	if (rd_kafka_get_watermark_offsets(topic->handle, topic->name, 0, &low,
									   &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		high > offset)
		return READ_HIDDEN;
	return READ_END;
}

/*
 * After PROGRESS_READY: reads a bit further, waiting for no longer than
 * timeout_ms.
 */
ReadStatus
progress_topic_read(ProgressTopic *topic, int timeout_ms)
{
	rd_kafka_resp_err_t err;

	forget_message(topic);
	if (!topic->reading &&
		rd_kafka_consume_start(topic->topic, 0, topic->start) != 0)
		return read_failed(topic, rd_kafka_last_error());
	topic->reading = true;
	/* Events of the handle itself; there are no callbacks. */
	rd_kafka_poll(topic->handle, 0);
	topic->message = rd_kafka_consume(topic->topic, 0, timeout_ms);
	if (topic->message == NULL)
		return READ_NOTHING;
	err = topic->message->err;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return READ_RECORD;
	if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		return take_end(topic, topic->message->offset);
	return read_failed(topic, err);
}

/*
 * After READ_RECORD: the record, which lives until the next call.
 */
ProgressRecord
progress_topic_record(const ProgressTopic *topic)
{
	const rd_kafka_message_t *message = topic->message;
	ProgressRecord record = {.offset = message->offset};

	record.key.data = message->key;
	record.key.len = (int) message->key_len;
	record.value.data = message->payload;
	record.value.len = (int) message->len;
	return record;
}

/*
 * After READ_END: begins again, further from the end.  Returns false when
 * all that the topic holds has been read.
 */
bool
progress_topic_read_more(ProgressTopic *topic)
{
	stop_reading(topic);
	if (topic->start <= topic->look->low)
		return false;
	topic->tail *= TAIL_FACTOR;
	topic->start = Max(topic->look->low, topic->look->high - topic->tail);
	return true;
}

/*
 * After PROGRESS_READY: the offset that the next record had then, or a lower
 * one.
 */
int64
progress_topic_end(const ProgressTopic *topic)
{
	return topic->look->high;
}

/*
 * After PROGRESS_READY: how large a record may be; INT_MAX when Kafka does not
 * tell.
 */
int
progress_topic_max_bytes(const ProgressTopic *topic)
{
	return topic->look->max_bytes;
}

/*
 * What is wrong.
 */
const char *
progress_topic_error(const ProgressTopic *topic)
{
	return topic->error;
}

void
progress_topic_close(ProgressTopic *topic)
{
	MemoryContextDelete(topic->context);
}
