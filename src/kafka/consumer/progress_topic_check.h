/*-------------------------------------------------------------------------
 *
 * progress_topic_check.h
 *	  Is the progress topic there, and is it as it must be?
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROGRESS_TOPIC_CHECK_H
#define OUTBOX_PROGRESS_TOPIC_CHECK_H

#include "postgres.h"

#include "port/atomics.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/client.h"
#include "kafka/config/config.h"
#include "kafka/consumer/progress_state.h"

/*
 * A look.  It belongs to a thread until that is done, so it is in no memory
 * context.
 */
typedef struct ProgressLook
{
	pthread_t	thread;
	bool		has_ended;		/* the thread */
	rd_kafka_t *handle;
	rd_kafka_topic_t *topic;
	char		name[TOPIC_NAME_LEN];
	bool		strict;
	pg_atomic_uint32 done;

	/* the result */
	ProgressState state;
	int64		low;			/* offset of the first record */
	int64		high;			/* and behind the last */
	int			max_bytes;		/* of a record; INT_MAX when Kafka does not
								 * tell */
	char		error[PRODUCER_ERROR_LEN];
} ProgressLook;

extern ProgressLook *progress_topic_check_start(rd_kafka_t *handle,
												rd_kafka_topic_t *topic,
												const char *name, bool strict);
extern bool progress_topic_check_is_done(ProgressLook *look);

#endif							/* OUTBOX_PROGRESS_TOPIC_CHECK_H */
