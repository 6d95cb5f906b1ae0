/*-------------------------------------------------------------------------
 *
 * request_counter.c
 *	  Counts the produce requests that the library sends, and notes how soon the
 *	  fastest of them was answered.
 *
 * Reports tell which requests were answered, so whoever counts both knows when
 * nothing is under way to a broker.  The library's threads do the counting; they
 * may outlive the handle's owner, so the counters stay for ever and are used
 * again.  They serve to send messages in good time, nothing else: a thread that
 * still counts where another handle does so now does no harm.
 *
 * How long an answer took is what the library's thread saw, from when it had
 * written the request until it had read the answer.  The owner cannot know: the
 * next request leaves before it hears of the answer to the one before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/request_counter.h"

#include "port/atomics.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer_state.h"

#define COUNTERS (2 * MAX_HANDLES)
#define PRODUCE 0				/* the request, in Kafka's protocol */

struct RequestCounter
{
	pg_atomic_uint32 all;
	pg_atomic_uint32 fastest_us;	/* answer since it was asked for; 0 for
									 * none */
	pg_atomic_uint32 to[LEADER_SLOTS];	/* by broker */
};

static RequestCounter counters[COUNTERS];

/* The library has written a request.  Runs in one of its threads. */
static rd_kafka_resp_err_t
on_request_sent(rd_kafka_t *handle, int socket, const char *broker_name,
				int32_t broker, int16_t request, int16_t version,
				int32_t correlation, size_t size, void *opaque)
{
	RequestCounter *counter = opaque;

	if (request == PRODUCE)
	{
		pg_atomic_fetch_add_u32(&counter->to[(unsigned int) broker % LEADER_SLOTS], 1);
		pg_atomic_fetch_add_u32(&counter->all, 1);
	}
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* The library has read an answer.  Runs in one of its threads. */
static rd_kafka_resp_err_t
on_response_received(rd_kafka_t *handle, int socket, const char *broker_name,
					 int32_t broker, int16_t request, int16_t version,
					 int32_t correlation, size_t size, int64_t us,
					 rd_kafka_resp_err_t err, void *opaque)
{
	RequestCounter *counter = opaque;
	uint32		fastest = pg_atomic_read_u32(&counter->fastest_us);

	if (request != PRODUCE || us <= 0 || us > PG_INT32_MAX)
		return RD_KAFKA_RESP_ERR_NO_ERROR;
	while ((fastest == 0 || us < fastest) &&
		   !pg_atomic_compare_exchange_u32(&counter->fastest_us, &fastest, us))
		;
	return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* A handle was made; its threads do not run yet. */
static rd_kafka_resp_err_t
on_new(rd_kafka_t *handle, const rd_kafka_conf_t *conf, void *opaque,
	   char *error, size_t size)
{
	rd_kafka_resp_err_t err;

	err = rd_kafka_interceptor_add_on_request_sent(handle, "outbox",
												   on_request_sent, opaque);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return err;
	return rd_kafka_interceptor_add_on_response_received(handle, "outbox",
														 on_response_received,
														 opaque);
}

/*
 * Has the requests of the handle that is made out of this configuration, and of
 * no other, counted.
 */
RequestCounter *
request_counter_count(rd_kafka_conf_t *conf)
{
	static int	last = 0;
	RequestCounter *counter = &counters[last++ % COUNTERS];

	pg_atomic_init_u32(&counter->all, 0);
	pg_atomic_init_u32(&counter->fastest_us, 0);
	for (int i = 0; i < LEADER_SLOTS; i++)
		pg_atomic_init_u32(&counter->to[i], 0);
	rd_kafka_conf_interceptor_add_on_new(conf, "outbox", on_new, counter);
	return counter;
}

/*
 * How many were sent, to all brokers.
 */
uint32
request_counter_sent(RequestCounter *counter)
{
	return pg_atomic_read_u32(&counter->all);
}

/*
 * The same for the brokers of one slot.
 */
uint32
request_counter_sent_to(RequestCounter *counter, int slot)
{
	return pg_atomic_read_u32(&counter->to[slot]);
}

/*
 * How many microseconds the fastest answer took since this was last called; 0 if
 * there was none.
 */
uint32
request_counter_fastest_us(RequestCounter *counter)
{
	return pg_atomic_exchange_u32(&counter->fastest_us, 0);
}
