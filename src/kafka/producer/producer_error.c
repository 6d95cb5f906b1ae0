/*-------------------------------------------------------------------------
 *
 * producer_error.c
 *	  The last error of a producer, and whether it is beyond use.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/producer_error.h"

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

/*
 * Keeps an error for producer_error().
 */
void
producer_set_error(Producer *producer, rd_kafka_resp_err_t err)
{
	strlcpy(producer->error, rd_kafka_err2str(err), sizeof(producer->error));
	producer->error_name = rd_kafka_err2name(err);
}

/*
 * Notes whether the producer is beyond use, and why.
 */
void
events_check_fatal(Producer *producer)
{
	for (int i = 0; i < producer->nhandles && !producer->fatal; i++)
	{
		rd_kafka_t *handle = producer->handles[i]->handle;

		if (rd_kafka_fatal_error(handle, NULL, 0) == RD_KAFKA_RESP_ERR_NO_ERROR)
			continue;
		producer->fatal = true;
		producer->error_name = "";
		(void) rd_kafka_fatal_error(handle, producer->error,
									sizeof(producer->error));
	}
}
