/*-------------------------------------------------------------------------
 *
 * progress_topic_check.c
 *	  Is the progress topic there, and is it as it must be?
 *
 * It has one partition, so that there is one last record, and it is compacted
 * and nothing else: with cleanup.policy=delete Kafka forgets after a week how
 * far an idle database has come.  A broker that makes topics on demand makes
 * them otherwise.  So nobody of us names the topic to Kafka in a way that would
 * make it, until a look has found it, or made it as it must be.
 *
 * librdkafka's calls wait for answers, which a slow network may take long to
 * bring.  So a thread of its own looks, while its owner serves interrupts.  The
 * thread knows nothing of PostgreSQL's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/consumer/progress_topic_check.h"

#include <limits.h>

#include "kafka/client/property_defaults.h"
#include "kafka/client/thread.h"
#include "kafka/consumer/partition_bounds.h"
#include "kafka/consumer/progress_state.h"

#define ANSWER_MS 10000			/* that one may take */
#define LEADER_MS 3000			/* the same, of a leader that may be gone */

/* So that the server's disk does not fill before compaction sets in. */
#define SEGMENT_BYTES "16777216"

/* What the topic is like. */
typedef struct Traits
{
	int			partitions;
	char		cleanup_policy[64]; /* "" when Kafka does not tell */
	int			max_bytes;		/* of a record; INT_MAX likewise */
} Traits;

static ProgressState unfit(ProgressLook *look, const char *format,...) pg_attribute_printf(2, 3);

/* Notes an error of the library that may pass. */
static ProgressState
unanswered(ProgressLook *look, const char *text)
{
	snprintf(look->error, sizeof(look->error),
			 "Kafka does not tell about the topic \"%s\": %s", look->name, text);
	return PROGRESS_UNREACHABLE;
}

/* The administrator has to do something. */
static ProgressState
unfit(ProgressLook *look, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(look->error, sizeof(look->error), format, args);
	va_end(args);
	return PROGRESS_UNFIT;
}

/* Is the error one that does not pass by itself? */
static bool
is_refusal(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR_INVALID_PARTITIONS:
		case RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR:
		case RD_KAFKA_RESP_ERR_INVALID_CONFIG:
		case RD_KAFKA_RESP_ERR_INVALID_REQUEST:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
		case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
		case RD_KAFKA_RESP_ERR__INVALID_ARG:
			return true;
		default:
			return false;
	}
}

/* What the answer about the topic itself says. */
static ProgressState
judge_topic(ProgressLook *look, const struct rd_kafka_metadata *metadata,
			Traits *traits)
{
	const		rd_kafka_metadata_topic_t *topic = &metadata->topics[0];

	if (metadata->topic_cnt != 1)
		return unanswered(look, "no answer");
	if (topic->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
		return PROGRESS_ABSENT;
	if (is_refusal(topic->err))
		return unfit(look, "the relay may not use the topic \"%s\": %s; grant it Create, Describe, DescribeConfigs, Read and Write on the topic",
					 look->name, rd_kafka_err2str(topic->err));
	if (topic->err != RD_KAFKA_RESP_ERR_NO_ERROR || topic->partition_cnt == 0)
		return unanswered(look, rd_kafka_err2str(topic->err ? topic->err :
												 RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE));
	traits->partitions = topic->partition_cnt;
	return PROGRESS_READY;
}

/* Asks whether the topic is there, without having it made by that. */
static ProgressState
find_topic(ProgressLook *look, Traits *traits)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	ProgressState state;

	err = rd_kafka_metadata(look->handle, 0, look->topic, &metadata, ANSWER_MS);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return unanswered(look, rd_kafka_err2str(err));
	state = judge_topic(look, metadata, traits);
	rd_kafka_metadata_destroy(metadata);
	return state;
}

/* Options of a request; the answer to it is waited for as long. */
static rd_kafka_AdminOptions_t *
make_options(ProgressLook *look, rd_kafka_admin_op_t operation)
{
	rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(look->handle,
																 operation);

	(void) rd_kafka_AdminOptions_set_request_timeout(options, ANSWER_MS, NULL, 0);
	return options;
}

/* What the answer to the wish to make the topic means. */
static ProgressState
judge_creation(ProgressLook *look, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const char *text = rd_kafka_event_error_string(event);
	const		rd_kafka_topic_result_t **topics;
	size_t		count = 0;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event),
													 &count);
		if (count == 1)
		{
			err = rd_kafka_topic_result_error(topics[0]);
			text = rd_kafka_topic_result_error_string(topics[0]);
		}
	}
	/* It is to be looked at, also when somebody else has made it. */
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR ||
		err == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
		return PROGRESS_CREATED;
	if (text == NULL)
		text = rd_kafka_err2str(err);

	if (is_refusal(err))
		return unfit(look, "the topic \"%s\" does not exist and the relay could not create it: %s; grant it Create on the topic, or create it with 1 partition and cleanup.policy=compact",
					 look->name, text);
	return unanswered(look, text);
}

/* Makes the topic. */
static ProgressState
create_topic(ProgressLook *look)
{
	rd_kafka_AdminOptions_t *options = make_options(look,
													RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(look->handle);
	rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(look->name, 1, -1, NULL, 0);
	rd_kafka_event_t *event;
	ProgressState state;

	(void) rd_kafka_NewTopic_set_config(topic, "cleanup.policy", "compact");
	(void) rd_kafka_NewTopic_set_config(topic, "segment.bytes", SEGMENT_BYTES);
	rd_kafka_CreateTopics(look->handle, &topic, 1, options, queue);
	event = rd_kafka_queue_poll(queue, 2 * ANSWER_MS);
	state = event ? judge_creation(look, event) :
		unanswered(look, "no answer");
	if (event)
		rd_kafka_event_destroy(event);
	rd_kafka_NewTopic_destroy(topic);
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	return state;
}

/* Takes what we want to know out of the topic's settings. */
static void
take_settings(const rd_kafka_ConfigResource_t * resource, Traits *traits)
{
	size_t		count;
	const		rd_kafka_ConfigEntry_t **entries =
	rd_kafka_ConfigResource_configs(resource, &count);

	for (size_t i = 0; i < count; i++)
	{
		const char *name = rd_kafka_ConfigEntry_name(entries[i]);
		const char *value = rd_kafka_ConfigEntry_value(entries[i]);

		if (value && strcmp(name, "cleanup.policy") == 0)
			strlcpy(traits->cleanup_policy, value,
					sizeof(traits->cleanup_policy));
		else if (value && strcmp(name, "max.message.bytes") == 0)
			traits->max_bytes = atoi(value);
	}
}

/* What the answer about the topic's settings says. */
static ProgressState
judge_settings(ProgressLook *look, rd_kafka_event_t *event, Traits *traits)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	const		rd_kafka_ConfigResource_t **resources;
	size_t		count = 0;

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		resources = rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event),
															  &count);
		if (count == 1)
			err = rd_kafka_ConfigResource_error(resources[0]);
		if (count == 1 && err == RD_KAFKA_RESP_ERR_NO_ERROR)
			take_settings(resources[0], traits);
	}
	/* There are brokers, not Kafka's, that cannot tell. */
	if (err == RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE ||
		err == RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION ||
		err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return PROGRESS_READY;
	if (is_refusal(err))
		return unfit(look, "the relay may not see the settings of the topic \"%s\": %s; grant it DescribeConfigs on the topic",
					 look->name, rd_kafka_err2str(err));
	return unanswered(look, rd_kafka_err2str(err));
}

/* Asks for the topic's settings. */
static ProgressState
find_settings(ProgressLook *look, Traits *traits)
{
	rd_kafka_AdminOptions_t *options = make_options(look,
													RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
	rd_kafka_queue_t *queue = rd_kafka_queue_new(look->handle);
	rd_kafka_ConfigResource_t *resource =
	rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, look->name);
	rd_kafka_event_t *event;
	ProgressState state;

	rd_kafka_DescribeConfigs(look->handle, &resource, 1, options, queue);
	event = rd_kafka_queue_poll(queue, 2 * ANSWER_MS);
	state = event ? judge_settings(look, event, traits) :
		unanswered(look, "no answer");
	if (event)
		rd_kafka_event_destroy(event);
	rd_kafka_ConfigResource_destroy(resource);
	rd_kafka_queue_destroy(queue);
	rd_kafka_AdminOptions_destroy(options);
	return state;
}

/* Is it as it must be? */
static ProgressState
judge_traits(ProgressLook *look, const Traits *traits)
{
	if (traits->partitions != 1)
		return unfit(look, "the topic \"%s\" has %d partitions and must have 1; delete it, and the relay creates it anew",
					 look->name, traits->partitions);
	if (traits->cleanup_policy[0] == '\0')
		snprintf(look->error, sizeof(look->error),
				 "Kafka does not tell the cleanup.policy of the topic \"%s\", which must be compact",
				 look->name);
	else if (strcmp(traits->cleanup_policy, "compact") != 0)
		return unfit(look, "the topic \"%s\" has cleanup.policy=%s, so that Kafka would forget what is published; set cleanup.policy=compact",
					 look->name, traits->cleanup_policy);
	if (traits->max_bytes < PROGRESS_RECORD_BYTES)
		return unfit(look, "the topic \"%s\" has max.message.bytes=%d, which is too small for records of progress; set max.message.bytes=%d or more",
					 look->name, traits->max_bytes, PROGRESS_RECORD_BYTES);
	return PROGRESS_READY;
}

/* Looks. */
static ProgressState
look_at_topic(ProgressLook *look)
{
	Traits		traits = {.max_bytes = INT_MAX};
	ProgressState state = find_topic(look, &traits);
	rd_kafka_resp_err_t err;

	if (state == PROGRESS_ABSENT && look->strict)
		state = create_topic(look);
	else if (state == PROGRESS_READY && look->strict)
	{
		state = find_settings(look, &traits);
		if (state == PROGRESS_READY)
			state = judge_traits(look, &traits);
	}
	if (state != PROGRESS_READY)
		return state;
	look->max_bytes = traits.max_bytes;
	err = partition_bounds_query(look->handle, look->name, 0, &look->low, &look->high,
								 LEADER_MS);
	return err == RD_KAFKA_RESP_ERR_NO_ERROR ? PROGRESS_READY :
		unanswered(look, rd_kafka_err2str(err));
}

static void *
look_main(void *arg)
{
	ProgressLook *look = arg;

	look->state = look_at_topic(look);
	pg_atomic_write_u32(&look->done, 1);
	return NULL;
}

/*
 * Starts to look at the topic.  Strict: the topic is made if there is none, and
 * has to be as it must be.  The caller leaves handle and topic alone until
 * progress_topic_check_is_done(), and frees the result.  Raises an error when no
 * thread can be made.
 */
ProgressLook *
progress_topic_check_start(rd_kafka_t *handle, rd_kafka_topic_t *topic,
						   const char *name, bool strict)
{
	ProgressLook *look = calloc(1, sizeof(ProgressLook));
	int			error;

	if (look == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	look->handle = handle;
	look->topic = topic;
	look->strict = strict;
	strlcpy(look->name, name, sizeof(look->name));
	pg_atomic_init_u32(&look->done, 0);
	error = thread_start(&look->thread, look_main, look);
	if (error != 0)
	{
		free(look);
		errno = error;
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not create a thread to look at a Kafka topic: %m")));
	}
	return look;
}

/*
 * Is it over, so that the result can be read?  Then the thread has ended, too.
 */
bool
progress_topic_check_is_done(ProgressLook *look)
{
	if (pg_atomic_read_u32(&look->done) == 0)
		return false;
	if (!look->has_ended)
		pthread_join(look->thread, NULL);
	look->has_ended = true;
	return true;
}
