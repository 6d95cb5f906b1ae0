/*-------------------------------------------------------------------------
 *
 * progress_topic.h
 *	  The Kafka topic that says how far a relay has come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROGRESS_TOPIC_H
#define OUTBOX_PROGRESS_TOPIC_H

#include "postgres.h"

#include "core/slice.h"
#include "kafka/config/config.h"
#include "kafka/consumer/progress_state.h"

/* librdkafka's; its header is not for those who include this one. */
struct rd_kafka_conf_s;

typedef struct ProgressTopic ProgressTopic;

/* What one step of reading led to. */
typedef enum ReadStatus
{
	READ_NOTHING,				/* go on */
	READ_RECORD,				/* likewise, after having looked at it */
	READ_END,					/* of what is there at present */
	READ_HIDDEN,				/* the same, but a Kafka transaction that is
								 * open hides what comes behind */
	READ_REFUSED,				/* an administrator has to do something */
	READ_FAILED					/* look again, later */
} ReadStatus;

typedef struct ProgressRecord
{
	int64		offset;
	Slice		key;
	Slice		value;
} ProgressRecord;

extern ProgressTopic *progress_topic_open(const KafkaConfig *config,
										  const char *name, char *error);
extern void progress_topic_look(ProgressTopic *topic, bool strict);
extern ProgressState progress_topic_state(ProgressTopic *topic);
extern ReadStatus progress_topic_read(ProgressTopic *topic, int timeout_ms);
extern ProgressRecord progress_topic_record(const ProgressTopic *topic);
extern bool progress_topic_read_more(ProgressTopic *topic);
extern int	progress_topic_max_bytes(const ProgressTopic *topic);
extern int64 progress_topic_end(const ProgressTopic *topic);
extern const char *progress_topic_error(const ProgressTopic *topic);
extern void progress_topic_close(ProgressTopic *topic);
extern struct rd_kafka_conf_s *progress_reader_configure(const KafkaConfig *config,
														 char *error);

#endif							/* OUTBOX_PROGRESS_TOPIC_H */
