/*-------------------------------------------------------------------------
 *
 * broker_request.h
 *	  Asks the brokers about topics and offsets, without waiting for the answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BROKER_REQUEST_H
#define OUTBOX_BROKER_REQUEST_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/client.h"

typedef struct Question Question;

/* Partitions whose offsets are asked for; see broker_request.c */
typedef struct OffsetList
{
	rd_kafka_topic_partition_list_t *partitions;
	int			leader;
	bool		times;			/* from times, of partitions whose end is
								 * asked for in another list */
	int			taken;			/* so many answers have been looked at */
	pg_atomic_uint32 told;		/* are they there? */
} OffsetList;

extern OffsetList *broker_request_offset_lists(int n);
extern void broker_request_free_offsets(OffsetList *lists, int n);
extern Question *broker_request_ask(rd_kafka_t *handle, const WakePipe *wake,
									const char *topic, bool all, int timeout_ms);
extern Question *broker_request_ask_unknown(rd_kafka_t *handle, const WakePipe *wake,
											rd_kafka_topic_partition_list_t *unknown,
											int timeout_ms);
extern Question *broker_request_ask_offsets(rd_kafka_t *handle, const WakePipe *wake,
											OffsetList *lists, int n, int timeout_ms);
extern bool broker_request_is_answered(Question *question);
extern bool broker_request_answer(Question **question, rd_kafka_resp_err_t *err,
								  const struct rd_kafka_metadata **metadata);
extern bool broker_request_offsets(Question **question, OffsetList **lists, int *n);
extern int	broker_request_told(Question *question);
extern OffsetList *broker_request_lists(Question *question, int *n);
extern bool broker_request_list_is_told(OffsetList *list);
extern bool broker_request_abandon(Question **question, bool leave);

#endif							/* OUTBOX_BROKER_REQUEST_H */
