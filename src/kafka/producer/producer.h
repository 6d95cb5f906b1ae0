/*-------------------------------------------------------------------------
 *
 * producer.h
 *	  An idempotent Kafka producer that fits PostgreSQL's process model.
 *
 * No librdkafka type leaks from here, no librdkafka callback runs PostgreSQL
 * code, and nothing here throws unless a comment says so.  Everything runs on
 * the calling (main) thread except librdkafka's own threads.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_H
#define OUTBOX_PRODUCER_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "core/slice.h"
#include "kafka/config/config.h"

typedef struct Producer Producer;
typedef struct ProducerTopic ProducerTopic;

/* The library puts the present time in its place. */
#define TIMESTAMP_NOW INT64CONST(0)

typedef struct MessageHeader
{
	const char *name;
	int			name_len;
	Slice		value;
} MessageHeader;

/* One Kafka record, about to be produced.  The producer copies all of it. */
typedef struct Message
{
	ProducerTopic *topic;
	Slice		key;
	Slice		value;
	MessageHeader *headers;
	int			nheaders;
	int64		timestamp_ms;	/* Unix time, or TIMESTAMP_NOW */
	uint64		opaque;			/* comes back with the delivery report */
	bool		first_partition;	/* to that, whatever the key */
} Message;

typedef enum SendResult
{
	SEND_QUEUED,				/* a delivery report will follow */
	SEND_QUEUE_FULL,			/* poll, wait, try again */
	SEND_TOO_LARGE,				/* above the producer's own limit */
	SEND_REFUSED,				/* cannot be sent now: the topic has gone */
	SEND_FATAL					/* the producer is beyond use: close it */
} SendResult;

/* What became of a message. */
typedef enum DeliveryResult
{
	DELIVERY_OK,
	DELIVERY_RETRY,				/* not the message's fault: send it again */
	DELIVERY_REFUSED,			/* the broker will never take it, or a
								 * neighbour in its batch, */
	DELIVERY_TOO_LARGE,			/* for its size, or */
	DELIVERY_TIME_REFUSED,		/* with that timestamp, or */
	DELIVERY_TOPIC_REFUSED,		/* whatever is sent to that topic, or */
	DELIVERY_TOPIC_FORBIDDEN,	/* as long as a right is missing */
	DELIVERY_PURGED				/* given up because of another message: the
								 * producer went fatal or was purged */
} DeliveryResult;

typedef struct Delivery
{
	uint64		opaque;
	DeliveryResult result;
	const char *error_name;		/* librdkafka's name of the code, never freed;
								 * "" if OK */
	const char *error_text;
	const char *topic;			/* NULL if OK */
	int			bytes;			/* key and value */
	int			value_bytes;	/* of those */
	int			sent_bytes;		/* that a broker gets when it is sent alone;
								 * -1 if not known.  Of the first one only
								 * that is refused for its size, 0 for others */
	int64		offset;			/* in its partition; below 0 if not known */
} Delivery;

typedef void (*DeliveryHandler) (void *arg, const Delivery *delivery);

/* A partition of a topic; -1 stands for all. */
typedef void (*PartitionHandler) (void *arg, const char *topic, int partition);

/* Whether a topic can take messages. */
typedef enum TopicStatus
{
	TOPIC_READY,
	TOPIC_ASKED,				/* not known yet: a broker was asked */
	TOPIC_UNKNOWN,				/* does not exist (yet) */
	TOPIC_FORBIDDEN,			/* we have no right to it (yet) */
	TOPIC_REFUSED,				/* there cannot be a topic of that name */
	TOPIC_UNREACHABLE			/* no broker answered */
} TopicStatus;

/* What has become of topics that are to be created; see topic_creation.c */
typedef enum CreationState
{
	CREATION_OPEN,				/* not known yet */
	CREATION_DONE,				/* a broker knows them all, or not for now */
	CREATION_FAILED				/* no broker answered */
} CreationState;

/* How far it has come. */
typedef struct CreationProgress
{
	int			missing;		/* topics, by the last answer; -1 before one */
	bool		made;			/* some appeared that were missing */
	bool		moved;			/* since the last look there was an answer,
								 * the first or one with less topics missing */
} CreationProgress;

/* Between two looks at it. */
#define CREATION_LOOK_MS 100

/* Numbers for stat_relay, all since the producer was opened. */
typedef struct ProducerStats
{
	uint64		retries;		/* requests sent again */
	int64		round_trip_us;	/* average to the brokers; -1 unknown */
	char		error[PRODUCER_ERROR_LEN];	/* the last error event; "" if
											 * none yet */
	uint64		nerrors;		/* grows with each error event */
} ProducerStats;

extern Producer *producer_open(const KafkaConfig *config, char *error);
extern void producer_close(Producer *producer);
extern int	producer_event_fd(const Producer *producer);
extern void producer_poll(Producer *producer, DeliveryHandler handler, void *arg);
extern bool producer_is_fatal(const Producer *producer);
extern int	producer_max_bytes(const Producer *producer);
extern int	producer_batch_bytes(const Producer *producer);
extern int	producer_sent_bytes(const Producer *producer, const Message *message);
extern int	producer_linger_ms(const Producer *producer);
extern int	producer_transaction_ms(const Producer *producer);
extern const char *producer_error(const Producer *producer);
extern const char *producer_error_name(const Producer *producer);
extern const ProducerStats *producer_stats(const Producer *producer);
extern ProducerTopic *producer_topic(Producer *producer, const char *name);
extern bool producer_has_topic(Producer *producer, const char *name);
extern bool producer_create_topics(Producer *producer,
								   const KafkaConfig *config, char **names,
								   int n);
extern CreationState producer_creation(Producer *producer, long patience,
									   CreationProgress *progress);
extern void producer_end_creation(Producer *producer);
extern TopicStatus producer_topic_status(Producer *producer,
										 ProducerTopic *topic);
extern int	producer_partition(const Producer *producer,
							   const ProducerTopic *topic, Slice key);
extern bool producer_is_busy(const ProducerTopic *topic, int partition);
extern bool producer_was_ready(const ProducerTopic *topic);
extern bool producer_lacks_leader(const ProducerTopic *topic);
extern bool producer_is_leaderless(const ProducerTopic *topic, int partition,
								   int ms);
extern bool producer_is_known(const Producer *producer,
							  const ProducerTopic *topic, Slice key);
extern bool producer_is_overgrown(const Producer *producer);
extern void producer_each_stuck(Producer *producer, int ms,
								PartitionHandler handler, void *arg);
extern void producer_each_leaderless(Producer *producer, int ms,
									 PartitionHandler handler, void *arg);
extern TopicStatus producer_probe(Producer *producer, ProducerTopic *topic,
								  int partition, TimestampTz since);
extern void producer_recheck(Producer *producer, ProducerTopic *topic);
extern uint64 producer_ask(Producer *producer);
extern uint64 producer_unanswered(const Producer *producer);
extern bool producer_answered(const Producer *producer, uint64 question,
							  bool *reached);
extern SendResult producer_send(Producer *producer, const Message *message);
extern void producer_pin(Producer *producer, bool pinned);
extern void producer_hurry(Producer *producer);
extern void producer_flush(Producer *producer);
extern void producer_prepare(Producer *producer);
extern void producer_flush_old(Producer *producer);
extern const char *producer_library_version(void);
extern bool producer_library_is_old(void);

#endif							/* OUTBOX_PRODUCER_H */
