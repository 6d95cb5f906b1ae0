/*-------------------------------------------------------------------------
 *
 * question.c
 *	  Asks the brokers about topics, without waiting for the answer.
 *
 * librdkafka's call for that blocks, and throws away an answer that comes
 * later than it was told to wait.  A broker may be far away, or slow, so the
 * call gets much time, and a thread of its own, which wakes the owner by the
 * producer's pipe.  There is one question at a time.
 *
 * The thread touches nothing of PostgreSQL's.  When the producer is closed
 * while a question is open, the thread destroys the handle in its stead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "port/atomics.h"

#include "kafka/handle.h"
#include "kafka/thread.h"

/* That one broker may take, or that there may be none. */
#define ANSWER_MS 10000

enum
{
	QUESTION_OPEN,
	QUESTION_ANSWERED,
	QUESTION_ABANDONED,			/* the handle is the thread's to destroy */
	QUESTION_LEFT				/* the handle goes with the process */
};

/*
 * A question.  Not in a memory context, since it may outlive them all.
 */
struct Question
{
	pthread_t	thread;
	rd_kafka_t *handle;
	rd_kafka_topic_t *topic;	/* a reference of its own; NULL for all that
								 * the producer knows */
	int			wake;			/* to be written to when it is answered */
	rd_kafka_resp_err_t err;
	const struct rd_kafka_metadata *metadata;	/* NULL unless no error */
	pg_atomic_uint32 state;
};

static void
free_question(Question *question)
{
	if (question->metadata)
		rd_kafka_metadata_destroy(question->metadata);
	if (question->topic)
		rd_kafka_topic_destroy(question->topic);
	if (question->wake >= 0)
		close(question->wake);
	free(question);
}

static void *
question_main(void *arg)
{
	Question   *question = arg;
	rd_kafka_t *handle = question->handle;
	int			wake = dup(question->wake);
	uint32		expected = QUESTION_OPEN;
	ssize_t		written pg_attribute_unused();

	question->err = rd_kafka_metadata(handle, 0, question->topic,
									  &question->metadata, ANSWER_MS);
	if (question->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		question->metadata = NULL;
	if (pg_atomic_compare_exchange_u32(&question->state, &expected,
									   QUESTION_ANSWERED))
		/* From here on it is the owner's. */
		written = write(wake, "1", 1);
	else
	{
		free_question(question);
		if (expected == QUESTION_ABANDONED)
			rd_kafka_destroy(handle);
	}
	close(wake);
	return NULL;
}

/*
 * Asks about a topic, which makes a broker create it where it is set up to do
 * so, or, with NULL, about all that the producer knows.  Does nothing while
 * there is a question, or when the process has no room for one more thread.
 */
void
question_ask(Producer *producer, const char *topic)
{
	Question   *question;

	if (producer->question)
		return;
	question = calloc(1, sizeof(Question));
	if (question == NULL)
		return;
	question->handle = producer->handle;
	question->wake = dup(producer->wake.write_end);
	if (topic)
		question->topic = rd_kafka_topic_new(producer->handle, topic, NULL);
	pg_atomic_init_u32(&question->state, QUESTION_OPEN);
	if (question->wake < 0 || (topic && question->topic == NULL) ||
		thread_start(&question->thread, question_main, question) != 0)
	{
		free_question(question);
		return;
	}
	producer->question = question;
	producer->asked++;
}

/*
 * Takes the answer, if it is there: what the brokers said, or why they did
 * not.  *metadata is the caller's to destroy; NULL with an error.
 */
bool
question_answer(Producer *producer, rd_kafka_resp_err_t *err,
				const struct rd_kafka_metadata **metadata)
{
	Question   *question = producer->question;

	if (question == NULL ||
		pg_atomic_read_u32(&question->state) != QUESTION_ANSWERED)
		return false;
	pthread_join(question->thread, NULL);
	*err = question->err;
	*metadata = question->metadata;
	question->metadata = NULL;
	producer->question = NULL;
	producer->answered = producer->asked;
	free_question(question);
	return true;
}

/*
 * The producer is closed.  Returns true when the thread will destroy the
 * handle, which nothing else may use any more.  With leave, the handle is not
 * to be destroyed at all.
 */
bool
question_abandon(Producer *producer, bool leave)
{
	Question   *question = producer->question;
	uint32		expected = QUESTION_OPEN;
	pthread_t	thread;

	if (question == NULL)
		return false;
	/* The thread may free it at any time. */
	thread = question->thread;
	producer->question = NULL;
	if (pg_atomic_compare_exchange_u32(&question->state, &expected,
									   leave ? QUESTION_LEFT : QUESTION_ABANDONED))
	{
		pthread_detach(thread);
		return true;
	}
	pthread_join(thread, NULL);
	free_question(question);
	return false;
}
