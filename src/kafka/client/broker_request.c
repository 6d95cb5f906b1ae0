/*-------------------------------------------------------------------------
 *
 * broker_request.c
 *	  Asks the brokers about topics and offsets, without waiting for the answer.
 *
 * librdkafka's calls for that block, and throw away an answer that comes
 * later than they were told to wait.  A broker may be far away, or slow, so a
 * call gets much time, and a thread of its own, which wakes the owner by the
 * handle's pipe.
 *
 * Offsets are asked for of each broker by a thread of its own, so that one that
 * does not answer holds up nobody else: what the others tell can be taken before
 * all have.
 *
 * The threads touch nothing of PostgreSQL's.  When the handle is closed
 * while a question is open, its thread destroys it in the owner's stead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/broker_request.h"

#include <time.h>
#include <unistd.h>

#include "port/atomics.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/client.h"
#include "kafka/client/thread.h"

/* That one broker may take to tell of offsets. */
#define OFFSETS_MS 5000

/* So many brokers are asked for offsets at a time. */
#define MAX_ASKED 32

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
	rd_kafka_topic_t *topic;	/* a reference of its own; NULL for several */
	bool		all;			/* all topics, or those that the handle knows */
	rd_kafka_topic_partition_list_t *unknown;	/* whose topics the handle is
												 * to know first; or NULL */
	OffsetList *offsets;		/* asked for instead of topics; or NULL */
	int			noffsets;
	pg_atomic_uint32 next;		/* of them, to be asked for */
	pg_atomic_uint32 told;		/* so many brokers have answered, or have not
								 * in time */
	int64		until_ms;		/* when it is no use to ask any more */
	int			wake;			/* to be written to when it is answered */
	int			timeout_ms;
	rd_kafka_resp_err_t err;
	const struct rd_kafka_metadata *metadata;	/* NULL unless no error */
	pg_atomic_uint32 state;
};

/*
 * Makes room for lists of partitions whose offsets are to be asked for; NULL
 * when there is no memory.
 */
OffsetList *
broker_request_offset_lists(int n)
{
	OffsetList *lists = calloc(Max(n, 1), sizeof(OffsetList));

	for (int i = 0; lists != NULL && i < n; i++)
		pg_atomic_init_u32(&lists[i].told, 0);
	return lists;
}

/*
 * Frees them.
 */
void
broker_request_free_offsets(OffsetList *lists, int n)
{
	for (int i = 0; i < n; i++)
		if (lists[i].partitions)
			rd_kafka_topic_partition_list_destroy(lists[i].partitions);
	free(lists);
}

static void
free_question(Question *question)
{
	if (question->metadata)
		rd_kafka_metadata_destroy(question->metadata);
	if (question->topic)
		rd_kafka_topic_destroy(question->topic);
	if (question->unknown)
		rd_kafka_topic_partition_list_destroy(question->unknown);
	if (question->offsets)
		broker_request_free_offsets(question->offsets, question->noffsets);
	if (question->wake >= 0)
		close(question->wake);
	free(question);
}

/* Milliseconds of a clock that nobody sets. */
static int64
clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000) + now.tv_nsec / 1000000;
}

static void
set_errors(rd_kafka_topic_partition_list_t *list, rd_kafka_resp_err_t err)
{
	for (int i = 0; i < list->cnt; i++)
		list->elems[i].err = err;
}

/* A part of a list, as a list. */
static rd_kafka_topic_partition_list_t *
part_of(const rd_kafka_topic_partition_list_t *list, int first, int n)
{
	rd_kafka_topic_partition_list_t *part = rd_kafka_topic_partition_list_new(n);

	for (int i = first; i < first + n; i++)
		rd_kafka_topic_partition_list_add(part, list->elems[i].topic,
										  list->elems[i].partition)->offset =
			list->elems[i].offset;
	return part;
}

/*
 * Asks for offsets of partitions with one leader.  The library fails all of
 * them when the leader refuses one, so they are asked for by halves then.
 * Returns false when there was no answer.
 */
static bool
find_offsets(rd_kafka_t *handle, rd_kafka_topic_partition_list_t *list,
			 int64 until_ms)
{
	int			left = (int) Max(until_ms - clock_ms(), 0);
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR__TIMED_OUT;

	if (left > 0)
		err = rd_kafka_offsets_for_times(handle, list, Min(left, OFFSETS_MS));
	/* Without an error of its own, each partition may have one. */
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	if (err < 0 || list->cnt == 1)
	{
		set_errors(list, err);
		return err != RD_KAFKA_RESP_ERR__TIMED_OUT &&
			err != RD_KAFKA_RESP_ERR__TRANSPORT;
	}
	for (int first = 0, n = list->cnt / 2; first < list->cnt;
		 first += n, n = list->cnt - n)
	{
		rd_kafka_topic_partition_list_t *part = part_of(list, first, n);

		(void) find_offsets(handle, part, until_ms);
		for (int i = 0; i < n; i++)
		{
			list->elems[first + i].offset = part->elems[i].offset;
			list->elems[first + i].err = part->elems[i].err;
		}
		rd_kafka_topic_partition_list_destroy(part);
	}
	return true;
}

/* Is a list the first one of its leader? */
static bool
is_first(const Question *question, int i)
{
	for (int j = 0; j < i; j++)
		if (question->offsets[j].leader == question->offsets[i].leader)
			return false;
	return true;
}

/* Asks a leader for the offsets of its lists, one after the other. */
static void
ask_leader(Question *question, int leader)
{
	bool		answers = true;
	ssize_t		written pg_attribute_unused();

	for (int i = 0; i < question->noffsets; i++)
	{
		OffsetList *list = &question->offsets[i];

		if (list->leader != leader)
			continue;
		if (answers)
			answers = find_offsets(question->handle, list->partitions,
								   question->until_ms);
		else
			set_errors(list->partitions, RD_KAFKA_RESP_ERR__TIMED_OUT);
	}
	/* The owner may look at them from here on. */
	pg_write_barrier();
	for (int i = 0; i < question->noffsets; i++)
		if (question->offsets[i].leader == leader)
			pg_atomic_write_u32(&question->offsets[i].told, 1);
	pg_atomic_fetch_add_u32(&question->told, 1);
	written = write(question->wake, "1", 1);
}

/* Asks one leader after the other, as long as there is one. */
static void *
ask_leaders(void *arg)
{
	Question   *question = arg;
	int			i;

	while ((i = (int) pg_atomic_fetch_add_u32(&question->next, 1)) <
		   question->noffsets)
		if (is_first(question, i))
			ask_leader(question, question->offsets[i].leader);
	return NULL;
}

/* Asks for the offsets of all lists, with as many threads as there are leaders. */
static void
find_all_offsets(Question *question)
{
	pthread_t	others[MAX_ASKED - 1];
	int			n = 0;

	question->until_ms = clock_ms() + question->timeout_ms;
	for (int i = 1; i < question->noffsets && n < lengthof(others); i++)
	{
		if (!is_first(question, i))
			continue;
		if (thread_start(&others[n], ask_leaders, question) != 0)
			break;
		n++;
	}
	(void) ask_leaders(question);
	for (int i = 0; i < n; i++)
		pthread_join(others[i], NULL);
}

static void *
question_main(void *arg)
{
	Question   *question = arg;
	rd_kafka_t *handle = question->handle;
	uint32		expected = QUESTION_OPEN;
	ssize_t		written pg_attribute_unused();

	/* Whatever comes of it: the library asks for all leaders at once. */
	if (question->unknown)
		(void) rd_kafka_offsets_for_times(handle, question->unknown,
										  Min(question->timeout_ms, OFFSETS_MS));
	if (question->offsets)
		find_all_offsets(question);
	else
		question->err = rd_kafka_metadata(handle, question->all,
										  question->topic, &question->metadata,
										  question->timeout_ms);
	if (question->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		question->metadata = NULL;
	if (pg_atomic_compare_exchange_u32(&question->state, &expected,
									   QUESTION_ANSWERED))
		/* It is the owner's, who waits for this thread before he frees it. */
		written = write(question->wake, "1", 1);
	else
	{
		free_question(question);
		if (expected == QUESTION_ABANDONED)
			rd_kafka_destroy(handle);
	}
	return NULL;
}

/* Begins a question to brokers that the handle knows. */
static Question *
make_question(rd_kafka_t *handle, const WakePipe *wake, int timeout_ms)
{
	Question   *question = calloc(1, sizeof(Question));

	if (question == NULL)
		return NULL;
	question->handle = handle;
	question->wake = dup(wake->write_end);
	question->timeout_ms = timeout_ms;
	pg_atomic_init_u32(&question->next, 0);
	pg_atomic_init_u32(&question->told, 0);
	pg_atomic_init_u32(&question->state, QUESTION_OPEN);
	return question;
}

/* Starts its thread; NULL when that cannot be done. */
static Question *
start_question(Question *question)
{
	if (question->wake >= 0 &&
		thread_start(&question->thread, question_main, question) == 0)
		return question;
	free_question(question);
	return NULL;
}

/*
 * Asks about a topic, which makes a broker create it where it is set up to do
 * so; with NULL about all topics, or about those that the handle knows.
 * Returns NULL when the process has no room for one more thread.
 */
Question *
broker_request_ask(rd_kafka_t *handle, const WakePipe *wake, const char *topic,
				   bool all, int timeout_ms)
{
	Question   *question = make_question(handle, wake, timeout_ms);

	if (question == NULL)
		return NULL;
	question->all = all;
	if (topic)
		question->topic = rd_kafka_topic_new(handle, topic, NULL);
	if (topic && question->topic == NULL)
	{
		free_question(question);
		return NULL;
	}
	return start_question(question);
}

/*
 * Asks about all topics that the handle knows, once the library has learned of
 * those of some partitions.  It would ask about each by itself otherwise, when
 * it is made known.  Takes the list over.  Returns NULL as above.
 */
Question *
broker_request_ask_unknown(rd_kafka_t *handle, const WakePipe *wake,
						   rd_kafka_topic_partition_list_t *unknown, int timeout_ms)
{
	Question   *question = make_question(handle, wake, timeout_ms);

	if (question == NULL)
	{
		rd_kafka_topic_partition_list_destroy(unknown);
		return NULL;
	}
	question->unknown = unknown;
	return start_question(question);
}

/*
 * Asks for offsets: each list has partitions with the same leader, and the
 * library's words for a place, or a time, in place of the offsets.  Takes the
 * lists over.  Returns NULL as above.
 */
Question *
broker_request_ask_offsets(rd_kafka_t *handle, const WakePipe *wake,
						   OffsetList *lists, int n, int timeout_ms)
{
	Question   *question = make_question(handle, wake, timeout_ms);

	if (question == NULL)
	{
		broker_request_free_offsets(lists, n);
		return NULL;
	}
	question->offsets = lists;
	question->noffsets = n;
	return start_question(question);
}

/*
 * Is there an answer to be taken?
 */
bool
broker_request_is_answered(Question *question)
{
	return question != NULL &&
		pg_atomic_read_u32(&question->state) == QUESTION_ANSWERED;
}

/* The same; if so, its thread has gone when this returns. */
static bool
join(Question *question)
{
	if (!broker_request_is_answered(question))
		return false;
	pthread_join(question->thread, NULL);
	return true;
}

/*
 * Takes the answer about topics, if it is there: what the brokers said, or why
 * they did not.  *metadata is the caller's to destroy; NULL with an error.
 * The question has gone then.
 */
bool
broker_request_answer(Question **question, rd_kafka_resp_err_t *err,
					  const struct rd_kafka_metadata **metadata)
{
	if (!join(*question))
		return false;
	*err = (*question)->err;
	*metadata = (*question)->metadata;
	(*question)->metadata = NULL;
	free_question(*question);
	*question = NULL;
	return true;
}

/*
 * Takes the answer about offsets, if it is there: the lists, which are the
 * caller's to free, with an offset or an error for each partition.
 */
bool
broker_request_offsets(Question **question, OffsetList **lists, int *n)
{
	if (!join(*question))
		return false;
	*lists = (*question)->offsets;
	*n = (*question)->noffsets;
	(*question)->offsets = NULL;
	free_question(*question);
	*question = NULL;
	return true;
}

/*
 * How many brokers have told of offsets so far, or have not in time.
 */
int
broker_request_told(Question *question)
{
	return question ? (int) pg_atomic_read_u32(&question->told) : 0;
}

/*
 * The lists of a question about offsets that is open.  Those that are told can
 * be looked at; see broker_request_list_is_told().
 */
OffsetList *
broker_request_lists(Question *question, int *n)
{
	*n = question->noffsets;
	return question->offsets;
}

/*
 * Has the leader of a list told of all that it was asked for?
 */
bool
broker_request_list_is_told(OffsetList *list)
{
	bool		told = pg_atomic_read_u32(&list->told) != 0;

	pg_read_barrier();
	return told;
}

/*
 * The handle is closed.  Returns true when the thread will destroy it, and
 * nothing else may use it any more.  With leave, it is not to be destroyed at
 * all.
 */
bool
broker_request_abandon(Question **question, bool leave)
{
	Question   *abandoned = *question;
	uint32		expected = QUESTION_OPEN;
	pthread_t	thread;

	if (abandoned == NULL)
		return false;
	/* The thread may free it at any time. */
	thread = abandoned->thread;
	*question = NULL;
	if (pg_atomic_compare_exchange_u32(&abandoned->state, &expected,
									   leave ? QUESTION_LEFT : QUESTION_ABANDONED))
	{
		pthread_detach(thread);
		return true;
	}
	pthread_join(thread, NULL);
	free_question(abandoned);
	return false;
}
