/*-------------------------------------------------------------------------
 *
 * producer_transaction.c
 *	  Kafka transactions of a producer.
 *
 * librdkafka's calls block until the coordinator has answered, and it advises
 * against short time-outs, since what it does in the background and what the
 * caller knows of it may then differ.  So each call runs in a thread of its
 * own, which wakes the owner by the producer's pipe when it is done.  The
 * owner stays free to serve events and interrupts, and to end the process: a
 * call that still runs then is left alone, together with the handle.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/producer_transaction.h"

#include <poll.h>
#include <unistd.h>

#include "port/atomics.h"
#include "utils/timestamp.h"

#include <librdkafka/rdkafka.h>

#include "core/monotonic_clock.h"
#include "kafka/client/thread.h"
#include "kafka/config/config.h"
#include "kafka/producer/error_class.h"
#include "kafka/producer/gate.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_error.h"
#include "kafka/producer/producer_state.h"

/*
 * A call under way.  Not in a memory context, since it may outlive them all.
 * Once it is done the thread still wakes the owner, so only who has waited for
 * its end may free the call and close the pipe.
 */
struct TransactionCall
{
	pthread_t	thread;
	rd_kafka_t *handle;
	TransactionOperation operation;
	int			timeout_ms;
	int			wake;			/* to be written to when it is done */
	rd_kafka_error_t *error;	/* valid when it is done */
	pg_atomic_uint32 done;
};

/*
 * Makes a configuration one for Kafka transactions under the given name.
 * librdkafka wants messages to time out before their transaction does.
 */
bool
transaction_configure(rd_kafka_conf_t *conf, const char *transactional_id,
					  char *error)
{
	char		timeout[32];
	size_t		size = sizeof(timeout);

	return rd_kafka_conf_get(conf, "transaction.timeout.ms", timeout, &size) ==
		RD_KAFKA_CONF_OK &&
		rd_kafka_conf_set(conf, "transactional.id", transactional_id, error,
						  PRODUCER_ERROR_LEN) == RD_KAFKA_CONF_OK &&
		rd_kafka_conf_set(conf, "message.timeout.ms", timeout, error,
						  PRODUCER_ERROR_LEN) == RD_KAFKA_CONF_OK;
}

static void *
call_main(void *arg)
{
	TransactionCall *call = arg;
	ssize_t		written pg_attribute_unused();

	switch (call->operation)
	{
		case TRANSACTION_INIT:
			call->error = rd_kafka_init_transactions(call->handle,
													 call->timeout_ms);
			break;
		case TRANSACTION_COMMIT:
			call->error = rd_kafka_commit_transaction(call->handle,
													  call->timeout_ms);
			break;
		case TRANSACTION_ABORT:
			call->error = rd_kafka_abort_transaction(call->handle,
													 call->timeout_ms);
			break;
	}
	pg_atomic_write_u32(&call->done, 1);
	written = write(call->wake, "1", 1);
	return NULL;
}

/*
 * Starts an operation, which may take up to timeout_ms; -1 stands for what is
 * left of the transaction's time.  Everything that was sent must have been
 * reported, and nothing may be sent until transaction_result() tells the
 * result.  Returns false, with errno, when no thread can be made.
 */
bool
transaction_try_start(Producer *producer, TransactionOperation operation,
					  int timeout_ms)
{
	TransactionCall *call = calloc(1, sizeof(TransactionCall));
	int			error;

	Assert(producer->call == NULL);
	if (call == NULL)
		return false;
	call->handle = producer->handle;
	call->operation = operation;
	call->timeout_ms = timeout_ms;
	call->wake = producer->wake.write_end;
	pg_atomic_init_u32(&call->done, 0);

	error = thread_start(&call->thread, call_main, call);
	if (error != 0)
	{
		free(call);
		errno = error;
		return false;
	}
	producer->call = call;
	return true;
}

/*
 * The same, but raises an error when no thread can be made.
 */
void
transaction_start(Producer *producer, TransactionOperation operation,
				  int timeout_ms)
{
	if (!transaction_try_start(producer, operation, timeout_ms))
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not create a thread for a Kafka transaction: %m")));
}

/*
 * Takes the result of the call that was started, and forgets the call.  False
 * when it is not done yet.
 */
static bool
take_result(Producer *producer, rd_kafka_error_t **error)
{
	TransactionCall *call = producer->call;

	if (pg_atomic_read_u32(&call->done) == 0)
		return false;
	pthread_join(call->thread, NULL);
	*error = call->error;
	producer->call = NULL;
	free(call);
	return true;
}

/* What an error of the library means; it is kept for producer_error(). */
static TransactionResult
judge(Producer *producer, rd_kafka_error_t *error)
{
	TransactionResult result = TRANSACTION_FAILED;

	if (error == NULL)
		return TRANSACTION_DONE;
	events_check_fatal(producer);
	strlcpy(producer->error, rd_kafka_error_string(error),
			sizeof(producer->error));
	if (transaction_is_fenced(producer))
		result = TRANSACTION_FENCED;
	else if (rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS &&
			 rd_kafka_error_is_retriable(error))
		result = TRANSACTION_OCCUPIED;
	else if (rd_kafka_error_is_retriable(error))
		result = TRANSACTION_RETRY;
	rd_kafka_error_destroy(error);
	return result;
}

/*
 * What came of the operation that was started; producer_error() explains any
 * but TRANSACTION_DONE.  Does not wait.
 */
TransactionResult
transaction_result(Producer *producer)
{
	rd_kafka_error_t *error;

	if (!take_result(producer, &error))
		return TRANSACTION_RUNNING;
	return judge(producer, error);
}

/*
 * Has transaction_result() not told the result yet?
 */
bool
transaction_is_running(const Producer *producer)
{
	return producer->call != NULL;
}

static void
ignore_delivery(void *arg, const Delivery *delivery)
{
}

/*
 * Has the open transaction of a producer that is about to be closed aborted,
 * whatever is in flight.  Waits timeout_ms at most, or a moment more, so that
 * the call has come to its end.
 */
void
transaction_leave(Producer *producer, int timeout_ms)
{
	long		left = timeout_ms + TRANSACTION_GRACE_MS;
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(), left);
	struct pollfd fd = {.events = POLLIN};

	if (producer->fatal || producer->call ||
		!transaction_try_start(producer, TRANSACTION_ABORT, timeout_ms))
		return;
	fd.fd = producer_event_fd(producer);
	while (left > 0 && transaction_result(producer) == TRANSACTION_RUNNING)
	{
		(void) poll(&fd, 1, (int) left);
		producer_poll(producer, ignore_delivery, NULL);
		left = TimestampDifferenceMilliseconds(monotonic_now(), until);
	}
}

/*
 * Begins a transaction.  No broker is asked.
 */
TransactionResult
transaction_begin(Producer *producer)
{
	producer->hurried = false;
	if (producer->gate)
		gate_begin(producer);
	return judge(producer, rd_kafka_begin_transaction(producer->handle));
}

/*
 * Why the transaction that is open cannot be committed any more; NULL when
 * nothing is known against it, or a call is under way.  The library has no call to ask that, but it
 * says so when another one is to begin.  Sets refused if a right is missing.
 */
const char *
transaction_failure(Producer *producer, bool *refused)
{
	rd_kafka_error_t *error;
	bool		has_failed;

	*refused = false;
	/* One call at a time. */
	if (producer->call)
		return NULL;
	error = rd_kafka_begin_transaction(producer->handle);
	has_failed = error && rd_kafka_error_txn_requires_abort(error);
	if (has_failed)
	{
		strlcpy(producer->error, rd_kafka_error_string(error),
				sizeof(producer->error));
		*refused = errors_classify(rd_kafka_error_code(error)) ==
			DELIVERY_TOPIC_FORBIDDEN;
	}
	rd_kafka_error_destroy(error);
	return has_failed ? producer->error : NULL;
}

/*
 * Has another producer of our name come up since, or did the coordinator end
 * our transaction because it lasted too long?  The library does not tell one
 * from the other.
 */
bool
transaction_is_fenced(const Producer *producer)
{
	switch (rd_kafka_fatal_error(producer->handle, NULL, 0))
	{
		case RD_KAFKA_RESP_ERR__FENCED:
		case RD_KAFKA_RESP_ERR_PRODUCER_FENCED:
		case RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH:
			return true;
		default:
			return false;
	}
}

/*
 * Is a call under way, so that neither handle nor pipe may go?  Forgets the
 * call.
 */
bool
transaction_abandon(Producer *producer)
{
	rd_kafka_error_t *error = NULL;
	bool		running = producer->call && !take_result(producer, &error);

	rd_kafka_error_destroy(error);
	producer->call = NULL;
	return running;
}
