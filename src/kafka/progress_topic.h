/*-------------------------------------------------------------------------
 *
 * progress_topic.h
 *	  The Kafka topic that says how far a relay has come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_PROGRESS_TOPIC_H
#define OUTBOX_KAFKA_PROGRESS_TOPIC_H

#include "postgres.h"

#include "kafka/config.h"
#include "kafka/producer.h"

typedef struct ProgressReader ProgressReader;

/* What one step of reading led to. */
typedef enum ReadStatus
{
	READ_MORE,					/* go on */
	READ_DONE,
	READ_UNREACHABLE			/* try again later */
} ReadStatus;

extern ProgressReader *progress_reader_open(const KafkaConfig *config,
											const char *topic, char *error);
extern ReadStatus progress_reader_step(ProgressReader *reader, int timeout_ms);
extern const char *progress_reader_record(const ProgressReader *reader, int *len);
extern const char *progress_reader_error(const ProgressReader *reader);
extern void progress_reader_close(ProgressReader *reader);
extern TopicStatus progress_topic_create(Producer *producer, const char *name,
										 int timeout_ms);

#endif							/* OUTBOX_KAFKA_PROGRESS_TOPIC_H */
