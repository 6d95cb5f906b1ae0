/*-------------------------------------------------------------------------
 *
 * topics.c
 *	  The topics of a producer, and whether they can take messages.
 *
 * librdkafka waits half a minute before it reports that a topic does not
 * exist, and fails what was sent meanwhile.  So a topic is asked for before
 * the first message goes there.  The question also makes a broker create the
 * topic, where it is set up to do so.
 *
 * The answer "ready" is kept until a message fails for whatever reason, since
 * topics may be deleted and rights withdrawn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/errors.h"
#include "kafka/handle.h"

/*
 * Makes the empty set of topics.
 */
void
topics_create(Producer *producer)
{
	HASHCTL		ctl = {
		.keysize = TOPIC_NAME_LEN,
		.entrysize = sizeof(ProducerTopic),
		.hcxt = producer->context,
	};

	producer->topics = hash_create("outbox topics", 64, &ctl,
								   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	producer->doubts = 1;
}

/*
 * Gives the library's topic handles back, which must be done before the
 * producer's.
 */
void
topics_destroy(Producer *producer)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->handle)
			rd_kafka_topic_destroy(topic->handle);
}

/* Makes a topic known to the library, which will lead back to it. */
static rd_kafka_topic_t *
open_topic(Producer *producer, ProducerTopic *topic)
{
	rd_kafka_topic_conf_t *conf = rd_kafka_default_topic_conf_dup(producer->handle);

	rd_kafka_topic_conf_set_opaque(conf, topic);
	return rd_kafka_topic_new(producer->handle, topic->name, conf);
}

/*
 * Returns the topic of that name, making it known to the library if it is
 * not; NULL, with the reason in producer_error(), when the library refuses
 * the name.  The topic lives as long as the producer.  May raise an error for
 * want of memory.
 */
ProducerTopic *
producer_topic(Producer *producer, const char *name)
{
	ProducerTopic *topic = producer->last_topic;
	bool		found;

	if (topic && strcmp(topic->name, name) == 0)
		return topic;
	if (strlen(name) >= TOPIC_NAME_LEN)
	{
		producer_set_error(producer, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION);
		return NULL;
	}
	topic = hash_search(producer->topics, name, HASH_ENTER, &found);
	if (!found)
	{
		topic->handle = NULL;
		topic->ready_since = 0;
		topic->npartitions = 0;
		topic->acknowledged_at = NULL;
	}
	if (topic->handle == NULL)
		topic->handle = open_topic(producer, topic);
	if (topic->handle == NULL)
	{
		producer_set_error(producer, rd_kafka_last_error());
		return NULL;
	}
	producer->last_topic = topic;
	return topic;
}

/* What the broker says about the one topic that it was asked for. */
static TopicStatus
judge_topic(Producer *producer, const struct rd_kafka_metadata *metadata)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;

	if (metadata->topic_cnt == 1)
		err = metadata->topics[0].err;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (metadata->topics[0].partition_cnt > 0)
			return TOPIC_READY;
		err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	}
	producer_set_error(producer, err);
	if (errors_classify(err) == DELIVERY_TOPIC_REFUSED)
		return TOPIC_REFUSED;
	/* "No leader" is a topic in the making. */
	if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
		return TOPIC_UNKNOWN;
	return TOPIC_UNREACHABLE;
}

/*
 * Can the topic take messages?  Asks a broker unless that is known, and waits
 * up to timeout_ms for the answer; producer_error() explains any but
 * TOPIC_READY.
 */
TopicStatus
producer_topic_status(Producer *producer, ProducerTopic *topic, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	TopicStatus status;

	if (topic->ready_since == producer->doubts)
		return TOPIC_READY;
	err = rd_kafka_metadata(producer->handle, 0, topic->handle, &metadata,
							timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		producer_set_error(producer, err);
		return TOPIC_UNREACHABLE;
	}
	status = judge_topic(producer, metadata);
	if (status == TOPIC_READY)
		acquaintance_resize(producer, topic, metadata->topics[0].partition_cnt);
	rd_kafka_metadata_destroy(metadata);
	if (status == TOPIC_READY)
		topic->ready_since = producer->doubts;
	return status;
}

/*
 * Does a broker answer within timeout_ms?
 */
bool
producer_connect(Producer *producer, int timeout_ms)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;

	err = rd_kafka_metadata(producer->handle, 0, NULL, &metadata, timeout_ms);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		producer_set_error(producer, err);
		return false;
	}
	rd_kafka_metadata_destroy(metadata);
	return true;
}
