/*-------------------------------------------------------------------------
 *
 * consumer_state.h
 *	  What the files behind consumer.h share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_STATE_H
#define OUTBOX_CONSUMER_STATE_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/consumer/consumer.h"

struct Consumer
{
	MemoryContext context;		/* of this and all it allocates */
	MemoryContextCallback release;	/* gives back what is not memory */
	rd_kafka_t *handle;
	rd_kafka_queue_t *queue;	/* of all events */
	WakePipe	wake;
	rd_kafka_topic_t **known;	/* topics that it is to know, */
	int			nknown;			/* and how many */
	Question   *question;		/* NULL if none is open */
	const struct rd_kafka_metadata *topics; /* the last answer; or NULL */
	ConsumerStats stats;
	rd_kafka_resp_err_t err;	/* of the last call that failed */
	char		error[CONSUMER_ERROR_LEN];	/* likewise */
};

#endif							/* OUTBOX_CONSUMER_STATE_H */
