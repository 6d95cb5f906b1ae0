/*-------------------------------------------------------------------------
 *
 * consumer_errors.c
 *	  What a consumer hears of errors: about everything, one partition, or the
 *	  group.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/consumer/consumer_errors.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/event_log.h"
#include "kafka/consumer/consumer.h"
#include "kafka/consumer/consumer_state.h"

/*
 * Says about an error (CONSUMER_ERROR_LEN bytes) which right is missing, if one
 * is.
 */
static void
explain_right(rd_kafka_resp_err_t err, char *error)
{
	if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
		strlcat(error, "; the principal needs the rights Describe and Read on the topic",
				CONSUMER_ERROR_LEN);
	else if (err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
		strlcat(error, "; the principal needs the right Read on the group",
				CONSUMER_ERROR_LEN);
}

/*
 * Does the error say that the offset we asked for does not exist, or that the log
 * was cut in front of it?
 */
static bool
is_lost_offset(rd_kafka_resp_err_t err)
{
#if RD_KAFKA_VERSION >= 0x020100ff
	if (err == RD_KAFKA_RESP_ERR__LOG_TRUNCATION)
		return true;
#endif
	return err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
		err == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE;
}

/* Is the error about the group, which only shows offsets to Kafka's tools? */
static bool
is_about_group(rd_kafka_resp_err_t err, const char *text)
{
	return err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
		strncmp(text, "FindCoordinator", strlen("FindCoordinator")) == 0;
}

/* Keeps an error about the group. */
static void
keep_group_error(ConsumerStats *stats, rd_kafka_resp_err_t err)
{
	strlcpy(stats->group_error, rd_kafka_err2str(err), CONSUMER_ERROR_LEN);
	explain_right(err, stats->group_error);
}

/* Keeps an error of a partition, and tells the handler. */
static void
take_refusal(Consumer *consumer, rd_kafka_event_t *event,
			 const rd_kafka_topic_partition_t *partition,
			 const ConsumerHandler *handler)
{
	ConsumerStats *stats = &consumer->stats;
	char		error[CONSUMER_ERROR_LEN];

	if (!event_log_error_text(consumer->handle, event, error, false))
		return;
	explain_right(rd_kafka_event_error(event), error);
	if (strstr(error, partition->topic) == NULL)
		snprintf(stats->error, CONSUMER_ERROR_LEN,
				 "partition %d of topic \"%s\": %s", partition->partition,
				 partition->topic, error);
	else
		strlcpy(stats->error, error, CONSUMER_ERROR_LEN);
	stats->nerrors++;
	handler->refused(handler->arg, partition->topic, partition->partition);
}

/*
 * Keeps an error event, or tells the handler of what happened to a partition.
 */
void
consumer_take_error(Consumer *consumer, rd_kafka_event_t *event,
					const ConsumerHandler *handler)
{
	ConsumerStats *stats = &consumer->stats;
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	rd_kafka_topic_partition_t *partition = rd_kafka_event_topic_partition(event);

	if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		if (partition)
			handler->end(handler->arg, partition->topic, partition->partition,
						 partition->offset);
	}
	else if (is_lost_offset(err) && partition)
		handler->lost(handler->arg, partition->topic, partition->partition);
	else if (is_about_group(err, rd_kafka_event_error_string(event)))
	{
		/* Others than a missing right may pass before a commit fails. */
		keep_group_error(stats, err);
		if (err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
		{
			stats->group_fails = true;
			stats->ngroup_errors++;
		}
	}
	else if (partition)
		take_refusal(consumer, event, partition, handler);
	else if (event_log_error_text(consumer->handle, event, stats->error,
								  stats->error[0] != '\0'))
	{
		stats->nerrors++;
		stats->ndoubts++;
	}
	if (partition)
		rd_kafka_topic_partition_destroy(partition);
}

/*
 * Keeps the error of an offset commit, or forgets it after one without.
 */
void
consumer_take_commit(Consumer *consumer, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);

	consumer->stats.group_fails = err != RD_KAFKA_RESP_ERR_NO_ERROR;
	if (!consumer->stats.group_fails)
	{
		consumer->stats.group_error[0] = '\0';
		return;
	}
	/* That nobody was found says less than why. */
	if (err != RD_KAFKA_RESP_ERR__WAIT_COORD ||
		consumer->stats.group_error[0] == '\0')
		keep_group_error(&consumer->stats, err);
	consumer->stats.ngroup_errors++;
}

/*
 * Keeps what a call brought, an error for consumer_error(); returns whether it
 * is one.
 */
bool
consumer_failed(Consumer *consumer, rd_kafka_resp_err_t err)
{
	consumer->err = err;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	strlcpy(consumer->error, rd_kafka_err2str(err), sizeof(consumer->error));
	explain_right(err, consumer->error);
	return true;
}
