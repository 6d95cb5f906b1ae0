/*-------------------------------------------------------------------------
 *
 * topic_creation.c
 *	  Has brokers create many topics at once.
 *
 * Where brokers create topics on demand, to ask about a topic is to have it
 * created.  A broker passes such a request on to the controller, one after the
 * other, and each takes some 30 ms, however many topics it is about.  The
 * library asks about each topic alone, as soon as it is made known to a handle
 * that has a connection.
 *
 * So new topics are made known to a handle of their own that has no brokers
 * yet.  When it is told of them, it asks about all topics in one request, and
 * again until they are there or no more of them appear.  Then the producer's
 * library learns of those that are there, with one request, too: it would ask
 * about each alone otherwise, and what is sent meanwhile would wait for hundreds
 * of answers.  The handle goes, and the topics can be made known to the producer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/client/destroy.h"
#include "kafka/config/config.h"
#include "kafka/config/properties.h"
#include "kafka/producer/idempotent_producer.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"
#include "kafka/producer/producer_topics.h"

#define ANSWER_MS 10000			/* that one broker may take, or that there may
								 * be none */

struct Creation
{
	rd_kafka_t *handle;
	rd_kafka_topic_t **topics;
	int			ntopics;
	Question   *question;		/* NULL if none is open */
	int			nmissing;		/* topics, by the last answer */
	rd_kafka_topic_partition_list_t *made;	/* those that are there, once no
											 * more are waited for */
	uint64		learning;		/* number of the question by which the
								 * producer's library learns of them; 0 for
								 * none yet */
	/* By monotonic_now() */
	TimestampTz answered_at;	/* the last one */
	TimestampTz moved_at;		/* the last with less topics missing, or the
								 * first; 0 if there was none */
};

/*
 * The configuration of a producer that sends nothing, and which brokers it is
 * not to have yet, in the form of the library's lists; NULL and an error when
 * the library refuses it.
 */
static rd_kafka_conf_t *
configure(const KafkaConfig *config, StringInfo brokers, char *error)
{
	static const Setting plain[] = {
		{"enable.gapless.guarantee", "false"},
		{"enable.idempotence", "false"},
		{"statistics.interval.ms", "0"},
	};
	KafkaConfig copy = *config;
	rd_kafka_conf_t *conf;
	ListCell   *lc;

	copy.options = NIL;
	copy.transactional_id = NULL;
	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (property_is_broker_list(option->defname))
			appendStringInfo(brokers, "%s%s", brokers->len > 0 ? "," : "",
							 strVal(option->arg));
		else
			copy.options = lappend(copy.options, option);
	}
	conf = producer_configure(&copy, error);
	list_free(copy.options);
	if (conf)
		for (int i = 0; i < lengthof(plain); i++)
			(void) rd_kafka_conf_set(conf, plain[i].name, plain[i].value, NULL, 0);
	return conf;
}

/* Asks about all topics; false when there is no room for a thread. */
static bool
ask(Producer *producer, Creation *creation)
{
	creation->question = broker_request_ask(creation->handle, &producer->wake, NULL,
											false, ANSWER_MS);
	return creation->question != NULL;
}

/*
 * Has brokers asked about topics that the producer does not know, which creates
 * those that do not exist where brokers do that.  Does not wait:
 * producer_creation() tells what has come of it.  Names that the library
 * refuses are left out.  The configuration is the producer's.  Returns false
 * when nobody can be asked.  May raise an error for want of memory.
 */
bool
producer_create_topics(Producer *producer, const KafkaConfig *config,
					   char **names, int n)
{
	MemoryContext old = MemoryContextSwitchTo(producer->context);
	Creation   *creation = palloc0(sizeof(Creation));
	char		error[PRODUCER_ERROR_LEN];
	StringInfoData brokers;
	rd_kafka_conf_t *conf;

	Assert(producer->creation == NULL);
	creation->topics = palloc(sizeof(rd_kafka_topic_t *) * n);
	initStringInfo(&brokers);
	MemoryContextSwitchTo(old);
	producer->creation = creation;
	conf = configure(config, &brokers, error);
	if (conf)
		creation->handle = client_create(RD_KAFKA_PRODUCER, conf, error);
	if (creation->handle)
	{
		rd_kafka_set_log_queue(creation->handle, NULL);
		for (int i = 0; i < n; i++)
		{
			rd_kafka_topic_t *topic = rd_kafka_topic_new(creation->handle,
														 names[i], NULL);

			if (topic)
				creation->topics[creation->ntopics++] = topic;
		}
		rd_kafka_brokers_add(creation->handle, brokers.data);
	}
	pfree(brokers.data);
	if (creation->handle && ask(producer, creation))
		return true;
	producer_end_creation(producer);
	return false;
}

/* Is a topic not there (yet)?  What is wrong otherwise no time will mend. */
static bool
is_missing(const struct rd_kafka_metadata_topic *topic)
{
	return topic->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		topic->err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE ||
		(topic->err == RD_KAFKA_RESP_ERR_NO_ERROR && topic->partition_cnt == 0);
}

/* How many topics are not there (yet), by an answer? */
static int
count_missing(const struct rd_kafka_metadata *metadata)
{
	int			nmissing = 0;

	for (int i = 0; i < metadata->topic_cnt; i++)
		if (is_missing(&metadata->topics[i]))
			nmissing++;
	return nmissing;
}

/* The topics that are there, by an answer: one partition of each. */
static rd_kafka_topic_partition_list_t *
list_made(const struct rd_kafka_metadata *metadata)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(metadata->topic_cnt);

	for (int i = 0; i < metadata->topic_cnt; i++)
		if (metadata->topics[i].err == RD_KAFKA_RESP_ERR_NO_ERROR &&
			metadata->topics[i].partition_cnt > 0)
			rd_kafka_topic_partition_list_add(list, metadata->topics[i].topic, 0)->offset =
				RD_KAFKA_OFFSET_END;
	return list;
}

/* The topics are there: has the producer's library learn of them. */
static CreationState
learn_made(Producer *producer, Creation *creation)
{
	rd_kafka_topic_partition_list_t *made = creation->made;

	if (creation->learning != 0)
		return producer->answered >= creation->learning ? CREATION_DONE : CREATION_OPEN;
	if (made->cnt == 0)
		return CREATION_DONE;
	if (producer->question)
		return CREATION_OPEN;
	creation->made = NULL;
	if (!producer_topics_learn(producer, made))
		return CREATION_DONE;
	creation->learning = producer->asked;
	return CREATION_OPEN;
}

/* Takes an answer; returns for how long, in ms, topics are missing in vain. */
static long
take_answer(Creation *creation, const struct rd_kafka_metadata *metadata,
			CreationProgress *progress)
{
	int			nmissing = count_missing(metadata);
	TimestampTz now = monotonic_now();

	progress->moved = creation->moved_at == 0 || nmissing < creation->nmissing;
	progress->made |= creation->moved_at != 0 && progress->moved;
	progress->missing = creation->nmissing = nmissing;
	if (progress->moved)
		creation->moved_at = now;
	creation->answered_at = now;
	return TimestampDifferenceMilliseconds(creation->moved_at, now);
}

/*
 * What has become of what producer_create_topics() began?  To be asked again
 * after CREATION_LOOK_MS, or when the event descriptor is readable, as long as
 * it is CREATION_OPEN.  Patience, in ms, is how long topics that are missing
 * are waited for in vain.  Also CREATION_FAILED if the producer has never begun
 * that, as it is another one now.
 */
CreationState
producer_creation(Producer *producer, long patience, CreationProgress *progress)
{
	Creation   *creation = producer->creation;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	long		vain;

	progress->moved = false;
	if (creation == NULL)
		return CREATION_FAILED;
	if (creation->made != NULL || creation->learning != 0)
		return learn_made(producer, creation);
	if (creation->question == NULL)
	{
		if (TimestampDifferenceExceeds(creation->answered_at, monotonic_now(),
									   CREATION_LOOK_MS) &&
			!ask(producer, creation))
			return CREATION_FAILED;
		return CREATION_OPEN;
	}
	if (!broker_request_answer(&creation->question, &err, &metadata))
		return CREATION_OPEN;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return CREATION_FAILED;
	vain = take_answer(creation, metadata, progress);
	if (creation->nmissing == 0 || vain >= patience)
		creation->made = list_made(metadata);
	rd_kafka_metadata_destroy(metadata);
	return CREATION_OPEN;
}

/*
 * Forgets it, whatever has become of it.
 */
void
producer_end_creation(Producer *producer)
{
	Creation   *creation = producer->creation;

	if (creation == NULL)
		return;
	producer->creation = NULL;
	for (int i = 0; i < creation->ntopics; i++)
		rd_kafka_topic_destroy(creation->topics[i]);
	if (creation->made)
		rd_kafka_topic_partition_list_destroy(creation->made);
	if (creation->handle && !broker_request_abandon(&creation->question, false))
		destroy_handle(creation->handle);
	pfree(creation->topics);
	pfree(creation);
}
