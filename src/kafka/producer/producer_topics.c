/*-------------------------------------------------------------------------
 *
 * producer_topics.c
 *	  The topics of a producer, and whether they can take messages.
 *
 * librdkafka waits half a minute before it reports that a topic does not
 * exist, and fails what was sent meanwhile.  So a topic is asked for before
 * the first message goes there.  The question also makes a broker create the
 * topic, where it is set up to do so.
 *
 * The answer "ready" is kept until a message fails for whatever reason, since
 * topics may be deleted and rights withdrawn.  Nobody waits here for an answer:
 * see broker_request.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/producer_topics.h"

#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/producer/error_class.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_error.h"
#include "kafka/producer/producer_partitions.h"
#include "kafka/producer/producer_state.h"

/* That one broker may take, or that there may be none. */
#define ANSWER_MS 10000

/* An answer other than "ready" is good for so long. */
#define ASK_AGAIN_MS 200

/* It is of use to ask about all, if there are so many, and such a part. */
#define MANY_TOPICS 8
#define MANY_SHARE 16

/*
 * For so long after a broker was lost, leaders may change: "ready" is asked
 * for again after a while, and relied on meanwhile, but not for long.
 */
#define TROUBLE_MS 60000
#define REFRESH_MS 1000
#define STALE_MS 3000

/*
 * Makes the empty set of topics.
 */
void
producer_topics_create(Producer *producer)
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
producer_topics_destroy(Producer *producer)
{
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;

	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
	{
		if (topic->handle)
			rd_kafka_topic_destroy(topic->handle);
		for (int i = 1; topic->others && i < producer->nhandles; i++)
			if (topic->others[i])
				rd_kafka_topic_destroy(topic->others[i]);
	}
}

/*
 * Makes a topic known to one of the producer's handles, which will lead back to
 * it.  NULL when the library refuses its name.
 */
rd_kafka_topic_t *
producer_topics_open(rd_kafka_t *handle, ProducerTopic *topic)
{
	rd_kafka_topic_conf_t *conf = rd_kafka_default_topic_conf_dup(handle);

	rd_kafka_topic_conf_set_opaque(conf, topic);
	return rd_kafka_topic_new(handle, topic->name, conf);
}

/*
 * Is the topic of that name known to the library, since somebody looked it up?
 */
bool
producer_has_topic(Producer *producer, const char *name)
{
	ProducerTopic *topic = producer->last_topic;

	if (topic && strcmp(topic->name, name) == 0)
		return true;
	if (strlen(name) >= TOPIC_NAME_LEN)
		return false;
	topic = hash_search(producer->topics, name, HASH_FIND, NULL);
	if (topic == NULL || topic->handle == NULL)
		return false;
	topic->used_at = monotonic_now();
	producer->last_topic = topic;
	return true;
}

/*
 * Returns the topic of that name, making it known to the library if it is
 * not; NULL, with the reason in producer_error(), when the library refuses
 * the name.  The topic lives as long as the producer, see
 * producer_is_overgrown().  May raise an error for want of memory.
 */
ProducerTopic *
producer_topic(Producer *producer, const char *name)
{
	ProducerTopic *topic;
	bool		found;

	if (producer_has_topic(producer, name))
		return producer->last_topic;
	if (strlen(name) >= TOPIC_NAME_LEN)
	{
		producer_set_error(producer, RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION);
		return NULL;
	}
	topic = hash_search(producer->topics, name, HASH_ENTER, &found);
	if (!found)
	{
		topic->handle = NULL;
		topic->others = NULL;
		topic->ready_since = 0;
		topic->answered_at = 0;
		topic->npartitions = topic->nleaderless = topic->capacity = 0;
		topic->partitions = NULL;
		topic->outstanding = 0;
		topic->new_npartitions = 0;
		topic->run_partition = topic->run_left = 0;
		topic->gated = NULL;
		topic->ngated = 0;
		topic->moved_at = 0;
	}
	topic->used_at = monotonic_now();
	if (topic->handle == NULL)
		topic->handle = producer_topics_open(producer->handle, topic);
	if (topic->handle == NULL)
	{
		producer_set_error(producer, rd_kafka_last_error());
		return NULL;
	}
	producer->last_topic = topic;
	return topic;
}

/* What it means that a broker says of a topic. */
static TopicStatus
judge(rd_kafka_resp_err_t err)
{
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return TOPIC_READY;
	switch (errors_classify(err))
	{
		case DELIVERY_TOPIC_REFUSED:
			return TOPIC_REFUSED;
		case DELIVERY_TOPIC_FORBIDDEN:
			return TOPIC_FORBIDDEN;
		default:
			break;
	}
	/* "No leader" is a topic in the making. */
	if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
		return TOPIC_UNKNOWN;
	return TOPIC_UNREACHABLE;
}

/* Notes what is known of a topic now. */
static void
note_answer(Producer *producer, ProducerTopic *topic, rd_kafka_resp_err_t err)
{
	topic->err = err;
	topic->status = judge(err);
	topic->answered_at = monotonic_now();
	topic->answer_doubts = producer->asked_doubts;
	if (topic->status == TOPIC_READY)
		topic->ready_since = producer->asked_doubts;
	else
		topic->ready_since = 0;
}

/* Notes what a broker says of one topic. */
static void
take_topic(Producer *producer, const struct rd_kafka_metadata_topic *answer)
{
	rd_kafka_resp_err_t err = answer->err;
	ProducerTopic *topic = hash_search(producer->topics, answer->topic,
									   HASH_FIND, NULL);

	if (topic == NULL)
		return;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR && answer->partition_cnt == 0)
		err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		producer_partitions_update(producer, topic, answer);
	note_answer(producer, topic, err);
}

/* Asks about a topic, or all that are known; remembers for which one. */
static void
ask(Producer *producer, const char *name, bool all)
{
	if (producer->question)
		return;
	strlcpy(producer->asked_topic, name, sizeof(producer->asked_topic));
	producer->asked_doubts = producer->doubts;
	producer->question = broker_request_ask(producer->handle, &producer->wake,
											all ? NULL : name, false, ANSWER_MS);
	if (producer->question)
		producer->asked++;
}

/*
 * Asks for all topics now and then: partitions may have been added.  The library
 * asks as often, but does not tell.
 */
static void
refresh(Producer *producer)
{
	TimestampTz now = monotonic_now();

	if (producer->refresh_ms <= 0 ||
		!TimestampDifferenceExceeds(producer->refreshed_at, now,
									producer->refresh_ms))
		return;
	if (hash_get_num_entries(producer->topics) > 0)
		ask(producer, "", true);
	producer->refreshed_at = now;
}

/*
 * Takes the answer to what was asked, if it is there.  May raise an error for
 * want of memory.
 */
void
producer_topics_poll(Producer *producer)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	ProducerTopic *topic;

	refresh(producer);
	if (!broker_request_answer(&producer->question, &err, &metadata))
		return;
	producer->answered = producer->asked;
	producer->reached = err == RD_KAFKA_RESP_ERR_NO_ERROR;
	if (!producer->reached)
	{
		producer_set_error(producer, err);
		producer->unanswered++;
	}
	else
	{
		err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		for (int i = 0; i < metadata->topic_cnt; i++)
		{
			take_topic(producer, &metadata->topics[i]);
			if (strcmp(metadata->topics[i].topic, producer->asked_topic) == 0)
				err = RD_KAFKA_RESP_ERR_NO_ERROR;
		}
		rd_kafka_metadata_destroy(metadata);
	}
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR || producer->asked_topic[0] == '\0')
		return;
	topic = hash_search(producer->topics, producer->asked_topic, HASH_FIND, NULL);
	if (topic)
		note_answer(producer, topic, err);
}

/*
 * Are there many topics that may not be ready?  Of those that nobody has asked
 * for so far, or of the others.
 */
static bool
many_in_doubt(Producer *producer, bool never_asked)
{
	long		known = hash_get_num_entries(producer->topics);
	long		doubtful = 0;
	HASH_SEQ_STATUS scan;
	ProducerTopic *topic;

	if (known < MANY_TOPICS)
		return false;
	hash_seq_init(&scan, producer->topics);
	while ((topic = hash_seq_search(&scan)) != NULL)
		if (topic->ready_since != producer->doubts &&
			(topic->answered_at == 0) == never_asked)
			doubtful++;
	return doubtful >= MANY_TOPICS && doubtful >= known / MANY_SHARE;
}

/*
 * Asks about a topic.  Where that is of use for many, asks about all, since
 * questions are answered one by one; but not for one alone that is new.
 */
static void
ask_for(Producer *producer, const ProducerTopic *topic)
{
	if (producer->question == NULL)
		ask(producer, topic->name, many_in_doubt(producer, topic->answered_at == 0));
}

/*
 * The library has reported an error: a broker has gone, perhaps, and its
 * partitions may have no leader soon.
 */
void
producer_topics_note_trouble(Producer *producer)
{
	producer->trouble_until = TimestampTzPlusMilliseconds(monotonic_now(), TROUBLE_MS);
	producer->doubts++;
}

/* Is what is known of a topic that is ready too old to go by? */
static bool
is_stale(Producer *producer, ProducerTopic *topic)
{
	TimestampTz now;

	if (producer->trouble_until == 0)
		return false;
	now = monotonic_now();
	if (now > producer->trouble_until)
		producer->trouble_until = 0;
	else if (TimestampDifferenceExceeds(topic->answered_at, now, REFRESH_MS))
	{
		ask_for(producer, topic);
		return TimestampDifferenceExceeds(topic->answered_at, now, STALE_MS);
	}
	return false;
}

/*
 * Can the topic take messages?  Does not wait: asks a broker unless that is
 * known, and answers TOPIC_ASKED until producer_poll() has taken the answer,
 * which makes the event descriptor readable.  producer_error() explains any
 * other but TOPIC_READY.
 */
TopicStatus
producer_topic_status(Producer *producer, ProducerTopic *topic)
{
	if (topic->ready_since == producer->doubts)
		return is_stale(producer, topic) ? TOPIC_ASKED : TOPIC_READY;
	/* That no broker answers is true with all that has gone wrong since. */
	if (topic->answered_at != 0 &&
		(topic->answer_doubts == producer->doubts ||
		 topic->status == TOPIC_UNREACHABLE) &&
		!TimestampDifferenceExceeds(topic->answered_at, monotonic_now(),
									ASK_AGAIN_MS))
	{
		producer_set_error(producer, topic->err);
		return topic->status;
	}
	ask_for(producer, topic);
	return TOPIC_ASKED;
}

/*
 * Asks for a topic again though it was ready, since one of its partitions is
 * not.
 */
void
producer_recheck(Producer *producer, ProducerTopic *topic)
{
	if (TimestampDifferenceExceeds(topic->answered_at, monotonic_now(),
								   ASK_AGAIN_MS))
		ask_for(producer, topic);
}

/*
 * Can the topic, and one partition of it, or any with -1, take messages, by an
 * answer that came later than since?  As producer_topic_status() otherwise.
 */
TopicStatus
producer_probe(Producer *producer, ProducerTopic *topic, int partition,
			   TimestampTz since)
{
	if (topic->answered_at <= since)
	{
		ask_for(producer, topic);
		return TOPIC_ASKED;
	}
	/* One that is no more is no obstacle: its keys go elsewhere. */
	if (topic->status == TOPIC_READY && partition >= 0 &&
		producer_is_leaderless(topic, partition, 0))
		return TOPIC_UNKNOWN;
	producer_set_error(producer, topic->err);
	return topic->status;
}

/*
 * Asks about all topics that are known.  Returns the number of the question.
 */
uint64
producer_ask(Producer *producer)
{
	ask(producer, "", true);
	return producer->asked;
}

/*
 * Has the library learn about topics that are to be made known to it, and asks
 * about all that are.  Nothing else may be asked.  Takes the list over.  Returns
 * false when there is no room for a thread.
 */
bool
producer_topics_learn(Producer *producer, rd_kafka_topic_partition_list_t *unknown)
{
	producer->asked_topic[0] = '\0';
	producer->asked_doubts = producer->doubts;
	producer->question = broker_request_ask_unknown(producer->handle, &producer->wake,
													unknown, ANSWER_MS);
	if (producer->question == NULL)
		return false;
	producer->asked++;
	return true;
}

/*
 * How many questions no broker has answered so far.
 */
uint64
producer_unanswered(const Producer *producer)
{
	return producer->unanswered;
}

/*
 * Is the question of that number answered?  Sets reached if a broker did.
 */
bool
producer_answered(const Producer *producer, uint64 question, bool *reached)
{
	*reached = producer->reached;
	return producer->answered >= question;
}
