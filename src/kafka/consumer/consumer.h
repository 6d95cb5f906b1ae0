/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  A Kafka consumer that fits PostgreSQL's process model.
 *
 * It joins no group: the owner assigns partitions, from offsets that he
 * keeps himself.  No librdkafka type leaks from here, no librdkafka callback
 * runs PostgreSQL code, and nothing here throws unless a comment says so.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_H
#define OUTBOX_CONSUMER_H

#include "postgres.h"

#include "core/slice.h"
#include "kafka/config/config.h"

typedef struct Consumer Consumer;

#define CONSUMER_ERROR_LEN PRODUCER_ERROR_LEN
#define CONSUMER_TOPIC_LEN 250	/* Kafka's limit, and a zero */
#define CONSUMER_CLUSTER_LEN 64 /* of a cluster's id, and a zero */

/* Where to start, as the arguments of consumer_find_offset() */
#define CONSUMER_EARLIEST INT64CONST(-2)
#define CONSUMER_LATEST INT64CONST(-1)

/* A partition, and the offset of the next message that is wanted from it. */
typedef struct ConsumerPartition
{
	char		topic[CONSUMER_TOPIC_LEN];
	int			partition;
	int64		offset;
} ConsumerPartition;

/* One Kafka record; its parts live until consumer_release(). */
typedef struct ConsumerRecord
{
	void	   *event;			/* librdkafka's, which holds it all */
	const void *message;		/* likewise */
	const char *topic;
	int			partition;
	int64		offset;
	int64		timestamp_ms;	/* Unix time; -1 when there is none */
	Slice		key;
	Slice		value;
} ConsumerRecord;

typedef struct ConsumerHeader
{
	const char *name;
	Slice		value;
} ConsumerHeader;

/* A topic, as the last answer has it. */
typedef struct ConsumerTopic
{
	const char *name;			/* lives until the next question */
	bool		readable;		/* if not, consumer_error() tells why */
	int			partitions;
	int			leaderless;		/* the first without a leader, or -1 */
} ConsumerTopic;

/* A partition whose offset is asked for. */
typedef struct ConsumerOffset
{
	const char *topic;
	int			partition;
	int			leader;			/* number of its broker */
	int64		start;			/* CONSUMER_EARLIEST, CONSUMER_LATEST, or a
								 * Unix time in ms, which stands for the first
								 * message from then on, or the end when there
								 * is none */
	int64		offset;			/* -1 when it could not be had */
	bool		told;			/* has its broker answered, or not in time? */
} ConsumerOffset;

/*
 * What consumer_fetch() calls for each partition that it has read to its end,
 * that cannot be read, as the last error in the statistics says, or whose
 * offset does not exist, so that it is read no more.
 */
typedef struct ConsumerHandler
{
	void		(*end) (void *arg, const char *topic, int partition, int64 end);
	void		(*refused) (void *arg, const char *topic, int partition);
	void		(*lost) (void *arg, const char *topic, int partition);
	void	   *arg;
} ConsumerHandler;

typedef struct ConsumerStats
{
	uint64		nerrors;		/* grows with each error event, */
	uint64		ndoubts;		/* and with each that names no partition */
	char		error[CONSUMER_ERROR_LEN];	/* the last one; "" if none yet */
	uint64		ngroup_errors;	/* grows with each error about the group */
	char		group_error[CONSUMER_ERROR_LEN];	/* the last one */
	bool		group_fails;	/* and no commit has succeeded since */
} ConsumerStats;

extern Consumer *consumer_open(const KafkaConfig *config, const char *group,
							   const char *isolation, char *error);
extern void consumer_close(Consumer *consumer);
extern int	consumer_event_fd(const Consumer *consumer);
extern const char *consumer_error(const Consumer *consumer);
extern bool consumer_unreached(const Consumer *consumer);
extern bool consumer_topic_unknown(const Consumer *consumer);
extern const ConsumerStats *consumer_stats(const Consumer *consumer);
extern void consumer_know_topics(Consumer *consumer, char **names, int n);
extern bool consumer_ask_topics(Consumer *consumer, bool all);
extern bool consumer_ask_offsets(Consumer *consumer,
								 const ConsumerOffset *offsets, int n);
extern bool consumer_is_answered(const Consumer *consumer);
extern bool consumer_take_topics(Consumer *consumer, bool *reached);
extern bool consumer_take_offsets(Consumer *consumer, ConsumerOffset *offsets,
								  int n);
extern int	consumer_told(const Consumer *consumer);
extern int	consumer_ntopics(const Consumer *consumer);
extern void consumer_topic(Consumer *consumer, int i, ConsumerTopic *topic);
extern void consumer_set_topic_unknown(Consumer *consumer);
extern int	consumer_leader(const Consumer *consumer, int i, int partition);
extern bool consumer_bounds(Consumer *consumer, const char *topic,
							int partition, int64 *low, int64 *high,
							int timeout_ms);
extern bool consumer_find_offset(Consumer *consumer, const char *topic,
								 int partition, int64 start, int64 *offset,
								 int timeout_ms);
extern bool consumer_cluster_id(Consumer *consumer, char *id);
extern bool consumer_known_end(Consumer *consumer, const char *topic,
							   int partition, int64 *end);
extern bool consumer_assign(Consumer *consumer,
							const ConsumerPartition *partitions, int n);
extern void consumer_seek(Consumer *consumer,
						  const ConsumerPartition *partitions, int n);
extern int	consumer_fetch(Consumer *consumer, ConsumerRecord *records,
						   int max, Size max_bytes,
						   const ConsumerHandler *handler, bool *more);
extern void consumer_leave(Consumer *consumer);
extern int	consumer_headers(const ConsumerRecord *record,
							 ConsumerHeader *headers, int max);
extern void consumer_release(ConsumerRecord *records, int n);
extern void consumer_commit(Consumer *consumer,
							const ConsumerPartition *partitions, int n);

#endif							/* OUTBOX_CONSUMER_H */
