/*-------------------------------------------------------------------------
 *
 * client.h
 *	  What the files around librdkafka's handles share.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CLIENT_H
#define OUTBOX_CLIENT_H

#include "postgres.h"

#include "port/atomics.h"
#include "utils/hsearch.h"

#include <librdkafka/rdkafka.h>

#include "kafka/consumer/consumer.h"
#include "kafka/producer/producer.h"

#define TOPIC_NAME_LEN 250		/* Kafka's limit, and a zero */
#define VALUE_LEN 512			/* of a property that we look at */
#define MAX_HANDLES 64			/* of a producer */
#define LEADER_SLOTS 64			/* leaders that are told from each other */
#define PROGRESS_RECORD_BYTES 65536 /* that a record of progress may need; see
									 * published_set_json.c */

/* Finds the partition of a key: one of librdkafka's own. */
typedef int32_t(*Partitioner) (const rd_kafka_topic_t *topic,
							   const void *key, size_t len,
							   int32_t npartitions,
							   void *topic_opaque, void *opaque);

/* How a producer compresses batches. */
typedef enum CompressionCodec
{
	CODEC_NONE,
	CODEC_GZIP,
	CODEC_LZ4,
	CODEC_ZSTD,
	CODEC_OTHER					/* what we know nothing of */
} CompressionCodec;

typedef struct Compression
{
	CompressionCodec codec;
	int			level;			/* as the codec's library counts */
} Compression;

typedef struct Setting
{
	const char *name;
	const char *value;
} Setting;

/* Readable when there are events; -1 when not open. */
typedef struct WakePipe
{
	int			read_end;
	int			write_end;
} WakePipe;

/* Times are by steady_now(). */
typedef struct ProducerPartition
{
	TimestampTz acknowledged_at;	/* the last message; 0 for never */
	TimestampTz leaderless_since;	/* 0 when it has a leader */
	bool		had_leader;		/* since the producer knows it */
	int			leader;			/* its node, when last asked for */

	/* See partition_placement.c */
	uint8		handle;			/* number of the one that messages go through */
	uint8		slot;			/* its leader's, when it became busy */
	uint32		placed;			/* the producer's placements, when it got its
								 * handle */
	uint32		outstanding;	/* messages that are under way */
	TimestampTz ready_at;		/* since when what is outstanding could have
								 * been sent */
} ProducerPartition;

struct ProducerTopic
{
	char		name[TOPIC_NAME_LEN];	/* hash key */
	rd_kafka_topic_t *handle;	/* of the producer's first handle, */
	rd_kafka_topic_t **others;	/* and of the others, by number; NULL if none,
								 * as are those that were not needed yet */
	uint64		ready_since;	/* the producer's doubts when the topic was
								 * seen to take messages; 0 for never */

	/* What a broker last said of it */
	TopicStatus status;
	rd_kafka_resp_err_t err;
	TimestampTz answered_at;	/* by steady_now(); 0 for never */
	uint64		answer_doubts;	/* the producer's, when it was asked */

	/* See producer_partitions.c */
	int			npartitions;	/* when it was last ready */
	int			new_npartitions;	/* once nothing is under way; 0 if that is
									 * as before */
	int			nleaderless;	/* of them; when it was last asked for */
	int			capacity;		/* of the array */
	ProducerPartition *partitions;
	uint64		outstanding;	/* messages that are under way */
	TimestampTz moved_at;		/* last acknowledgement, or when the first of
								 * them was sent; 0 for never */
	TimestampTz used_at;		/* last looked up, after another one */

	/* Where messages go whose keys do not tell; see partition_placement.c */
	int			run_partition;
	int			run_left;		/* so many more to that */
	uint64		run_flushes;	/* the producer's, when that began */

	/* See gate.c */
	struct GatePartition **gated;	/* by number; NULL if not used yet */
	int			ngated;			/* size of the array */
};

typedef struct TransactionCall TransactionCall;

typedef struct Question Question;

typedef struct Creation Creation;

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

typedef struct HeaderPool HeaderPool;

/* A message's headers, and what comes back with it; see header_pool.c */
typedef struct HeaderList
{
	uint64		opaque;			/* the message's */
	int			partition;		/* likewise; -1 when the library chose it */
	rd_kafka_headers_t *headers;
	const void *first_value;	/* of the first header */
	HeaderPool *pool;			/* for lists like this; NULL if none */
	uint64		generation;		/* of the pool, when this was made */
	struct HeaderList *next_spare;
} HeaderList;

typedef struct Flusher Flusher;

typedef struct RequestCounter RequestCounter;

typedef struct Gate Gate;
typedef struct GatePartition GatePartition;

/* What of the messages sent is still under way; see flush.c */
typedef struct Flushing
{
	Flusher    *flusher;		/* NULL if messages are to linger */
	uint64		outstanding;	/* messages sent and not reported */
	uint64		sent;			/* of them, since the last look */
	bool		reported;		/* something was, since the last look */
	uint64		looks;			/* a bit for each slot of leaders whose
								 * partitions have got or are done with
								 * messages since the last look */
	bool		full;			/* there was no room for the last message */
	int			crowded;		/* leaders with several busy partitions, and
								 * messages of which the partition is unknown */
	TimestampTz crowded_since;	/* by steady_now() */
	TimestampTz flushed_until;	/* likewise */
	TimestampTz kept_until;		/* the same while crowded; 0 if not */
} Flushing;

/* What a handle has to do with one leader, or the leaders of one slot. */
typedef struct HandleLeader
{
	int			busy;			/* partitions with messages under way */
	uint32		answered;		/* requests, of those that were counted */
	TimestampTz freed_at;		/* last report */
	uint64		freed_poll;		/* the producer's polls then */
} HandleLeader;

/* One of the library's producers that a producer has; see partition_placement.c */
typedef struct ProducerHandle
{
	int			number;
	rd_kafka_t *handle;
	rd_kafka_queue_t *queue;	/* of all events */
	Flushing	flushing;
	RequestCounter *counter;
	HandleLeader leaders[LEADER_SLOTS];
	const rd_kafka_topic_t *last_topic; /* of the last report; may have gone */
	int32		last_partition;
	uint64		reports;		/* requests that were answered */
	bool		usable;			/* it knows the cluster */
	bool		leaving;		/* it is to be closed */
	uint32		placements;		/* the producer's, when it last got a
								 * partition */
	int			nplaced;		/* partitions that it got since that number */
	Question   *greeting;		/* by which it gets to know it */
	TimestampTz greeted_at;
	ProducerStats stats;		/* of it alone; no errors */
} ProducerHandle;

struct Producer
{
	MemoryContext context;		/* of this and all it allocates */
	MemoryContextCallback release;	/* gives back what is not memory */
	rd_kafka_t *handle;			/* the first, which always is there, answers
								 * questions and has transactions */
	ProducerHandle *handles[MAX_HANDLES];
	int			nhandles;
	rd_kafka_event_t *event;	/* being served; the rest of it is next */
	ProducerHandle *event_of;	/* whose that is */
	const rd_kafka_message_t *next_message; /* of it, if taken already */
	int			polled;			/* handles that have no more events */
	uint64		polls;			/* so far */
	HTAB	   *topics;
	ProducerTopic *last_topic;	/* last looked up */
	uint64		doubts;			/* grows when a topic may have gone */
	bool		too_large;		/* something was refused for its size */
	HeaderPool *pools;
	HeaderPool *last_pool;		/* last used; NULL if none */
	HeaderList *spare_lists;	/* without headers */
	int			pooled_lists;	/* in all pools */
	WakePipe	wake;
	bool		hurried;		/* the transaction is about to end */
	uint64		flushes;		/* so far */

	/* Several handles; see partition_placement.c */
	int			max_handles;
	rd_kafka_conf_t *template;	/* of handles; NULL if one is enough */
	int			most_busy;		/* handles, since looked_at */
	int			nbusy;			/* handles with messages under way */
	TimestampTz looked_at;
	TimestampTz opened_at;		/* the last handle */
	int			busy[LEADER_SLOTS]; /* partitions, of all handles */
	uint32		placements;		/* grows when partitions are to be distributed
								 * anew */
	bool		pinned;			/* partitions keep their handle */
	bool		spreads;		/* nothing is sent until nothing is under way,
								 * so that each partition can get another one */
	TimestampTz spread_at;		/* when that was last so */
	double		round_trip_us;	/* that a request takes, at best */
	int			nround_trips;	/* of which that was found out */
	uint64		outstanding;	/* messages under way, of all handles, */
	uint64		outstanding_bytes;	/* their size, */
	uint64		max_outstanding;	/* and what that may be */
	uint64		max_outstanding_bytes;
	uint64		retries_before; /* of handles that have gone */
	TimestampTz refreshed_at;	/* last asked for all topics */
	int			refresh_ms;

	Gate	   *gate;			/* NULL unless there is one; see gate.c */

	Partitioner partitioner;	/* NULL when keys have no partition */
	int			max_bytes;		/* of a message */
	int			batch_bytes;	/* of those that are sent at once */
	Compression compression;	/* of them */
	int			linger_ms;		/* that messages wait on purpose */
	int			transaction_ms; /* that a Kafka transaction may last */
	bool		fatal;
	TransactionCall *call;		/* under way in a thread of its own */
	Question   *question;		/* likewise; see broker_request.c */
	Creation   *creation;		/* of topics; NULL if none is under way */
	uint64		asked;			/* questions, so far */
	uint64		answered;		/* of them; the last may be open */
	uint64		asked_doubts;	/* doubts when the last was asked */
	char		asked_topic[TOPIC_NAME_LEN];	/* "" for all */
	TimestampTz trouble_until;	/* answers are good for a short time only, by
								 * steady_now(); 0 for none */
	bool		reached;		/* did the last answer come from a broker? */
	uint64		unanswered;		/* questions that no broker answered */
	ProducerStats stats;
	char		error[PRODUCER_ERROR_LEN];	/* of the last call that failed */
	const char *error_name;		/* its code */
};

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

/* consumer_errors.c */
extern void explain_right(rd_kafka_resp_err_t err, char *error);
extern void consumer_take_error(Consumer *consumer, rd_kafka_event_t *event,
								const ConsumerHandler *handler);
extern void consumer_take_commit(Consumer *consumer, rd_kafka_event_t *event);

/* client.c */
extern void handle_property(const rd_kafka_conf_t *conf, const char *name,
							char *value);
extern double handle_number(const rd_kafka_conf_t *conf, const char *name);
extern rd_kafka_conf_t *handle_configure(const KafkaConfig *config,
										 const Setting *defaults, int ndefaults,
										 const Setting *promises, int npromises,
										 char *error);
extern bool handle_check_brokers(const rd_kafka_conf_t *conf,
								 const KafkaConfig *config, char *error);
extern rd_kafka_t *handle_try(rd_kafka_type_t type, rd_kafka_conf_t *conf,
							  char *error);
extern rd_kafka_t *handle_create(rd_kafka_type_t type, rd_kafka_conf_t *conf,
								 char *error);
extern void wake_pipe_init(WakePipe *wake);
extern bool wake_pipe_open(WakePipe *wake, char *error);
extern void wake_pipe_close(WakePipe *wake);
extern void wake_pipe_watch(const WakePipe *wake, rd_kafka_queue_t *queue);
extern void wake_pipe_empty(const WakePipe *wake);

/* oauth_token.c */
extern bool token_configure(rd_kafka_conf_t *conf, char *error);
extern void token_start(rd_kafka_t *handle);

/* socket_options.c */
extern void socket_configure(rd_kafka_conf_t *conf);

/* property_defaults.c */
extern void adjust_producer(rd_kafka_conf_t *conf, const KafkaConfig *config);
extern void adjust_consumer(rd_kafka_conf_t *conf, const KafkaConfig *config);
extern bool adjust_check_producer(const rd_kafka_conf_t *conf,
								  const KafkaConfig *config, char *error);

/* idempotent_producer.c */
extern rd_kafka_conf_t *producer_configure(const KafkaConfig *config,
										   char *error);
extern void producer_set_error(Producer *producer, rd_kafka_resp_err_t err);

/* assigned_consumer.c */
extern rd_kafka_conf_t *consumer_configure(const KafkaConfig *config,
										   const char *group,
										   const char *isolation, char *error);
extern bool consumer_failed(Consumer *consumer, rd_kafka_resp_err_t err);

/* consumer_metadata.c */
extern void discovery_forget(Consumer *consumer);

/* progress_topic.c */
extern rd_kafka_conf_t *progress_reader_configure(const KafkaConfig *config,
												  char *error);

/* producer_topics.c */
extern void topics_create(Producer *producer);
extern void topics_destroy(Producer *producer);
extern void topics_poll(Producer *producer);
extern bool topics_learn(Producer *producer,
						 rd_kafka_topic_partition_list_t *unknown);
extern void topics_note_trouble(Producer *producer);
extern rd_kafka_topic_t *topics_open(rd_kafka_t *handle, ProducerTopic *topic);

/* broker_request.c */
extern OffsetList *question_offset_lists(int n);
extern void question_free_offsets(OffsetList *lists, int n);
extern Question *question_ask(rd_kafka_t *handle, const WakePipe *wake,
							  const char *topic, bool all, int timeout_ms);
extern Question *question_ask_unknown(rd_kafka_t *handle, const WakePipe *wake,
									  rd_kafka_topic_partition_list_t *unknown,
									  int timeout_ms);
extern Question *question_ask_offsets(rd_kafka_t *handle, const WakePipe *wake,
									  OffsetList *lists, int n, int timeout_ms);
extern bool question_is_answered(Question *question);
extern bool question_answer(Question **question, rd_kafka_resp_err_t *err,
							const struct rd_kafka_metadata **metadata);
extern bool question_offsets(Question **question, OffsetList **lists, int *n);
extern int	question_told(Question *question);
extern OffsetList *question_lists(Question *question, int *n);
extern bool question_list_is_told(OffsetList *list);
extern bool question_abandon(Question **question, bool leave);

/* producer_partitions.c */
extern Partitioner acquaintance_partitioner(const rd_kafka_conf_t *conf);
extern void acquaintance_update(Producer *producer, ProducerTopic *topic,
								const struct rd_kafka_metadata_topic *answer);
extern void acquaintance_note_sent(ProducerTopic *topic);
extern void acquaintance_note_reported(Producer *producer,
									   const rd_kafka_message_t *message,
									   bool acknowledged, TimestampTz now);

/* header_pool.c */
extern void headers_create(Producer *producer);
extern void headers_destroy(Producer *producer);
extern HeaderList *headers_make(Producer *producer, const Message *message);
extern void headers_keep(Producer *producer, HeaderList *list);
extern uint64 headers_delivered(Producer *producer,
								const rd_kafka_message_t *message);

/* flush.c */
extern bool flush_is_unwanted(const KafkaConfig *config);
extern bool flush_is_wanted(const KafkaConfig *config);
extern bool flush_configure(rd_kafka_conf_t *conf, const KafkaConfig *config,
							char *error);
extern void flush_note_sent(Producer *producer, ProducerHandle *handle,
							rd_kafka_resp_err_t err);
extern void flush_note_reported(ProducerHandle *handle,
								const rd_kafka_message_t *message,
								TimestampTz now);

/* flush_thread.c */
#define SHORTEST_MS 1			/* that a flush can last */
#define BUSY_MS 10				/* that one lasts while there is a lot to send */
extern bool flusher_start(ProducerHandle *handle, char *error);
extern void flusher_stop(ProducerHandle *handle);
extern void flusher_end(ProducerHandle *handle);
extern void flusher_flush(Flusher *flusher, int wanted_ms);
extern void flusher_keep(Flusher *flusher, TimestampTz until);

/* request_counter.c */
extern RequestCounter *requests_count(rd_kafka_conf_t *conf);
extern uint32 requests_sent(RequestCounter *counter);
extern uint32 requests_sent_to(RequestCounter *counter, int slot);

/* partition_placement.c */
extern int	spread_partition(Producer *producer, ProducerTopic *topic,
							 const Message *message);
extern ProducerHandle *spread_choose(Producer *producer, ProducerTopic *topic,
									 int partition);
extern int	spread_wanted(const Producer *producer);
extern void spread_anew(Producer *producer, TimestampTz now);
extern bool spread_must_wait(Producer *producer, const Message *message,
							 int partition);
extern bool spread_fall_back(Producer *producer, ProducerTopic *topic,
							 int partition, ProducerHandle **handle);
extern void spread_note_sent(Producer *producer, ProducerHandle *handle,
							 ProducerTopic *topic, const Message *message,
							 int partition);
extern void spread_note_reported(Producer *producer, ProducerHandle *handle,
								 const rd_kafka_message_t *message,
								 int partition, TimestampTz now);
extern void spread_note_answered(Producer *producer, ProducerHandle *handle,
								 const rd_kafka_message_t *message,
								 int partition, TimestampTz now);

/* producer_handles.c */
extern bool handles_open_first(Producer *producer, rd_kafka_conf_t *conf,
							   bool flushes, char *error);
extern rd_kafka_topic_t *handles_topic(Producer *producer,
									   ProducerHandle *handle,
									   ProducerTopic *topic);
extern bool handles_come(const Producer *producer, int wanted);
extern void handles_poll(Producer *producer);
extern void handles_leave(Producer *producer);
extern void handles_close(Producer *producer);

/* gate.c */
extern bool gate_is_wanted(const KafkaConfig *config);
extern bool gate_configure(rd_kafka_conf_t *conf, const KafkaConfig *config,
						   char *error);
extern void gate_create(Producer *producer, const rd_kafka_conf_t *conf);
extern bool gate_send(Producer *producer, const Message *message,
					  int number, SendResult *result);
extern void gate_note_sent(Producer *producer, const Message *message,
						   int partition);
extern void gate_note_reported(Producer *producer,
							   const rd_kafka_message_t *message);
extern void gate_poll(Producer *producer, DeliveryHandler handler, void *arg);
extern void gate_begin(Producer *producer);
extern void gate_destroy(Producer *producer);

/* gate_step.c */
extern void gate_step(Producer *producer, bool release);

/* producer_events.c */
extern void events_discard(Producer *producer, ProducerHandle *handle);
extern void events_check_fatal(Producer *producer);
extern bool events_log(const rd_kafka_t *handle, rd_kafka_event_t *event,
					   char *error);
extern bool events_error_text(const rd_kafka_t *handle,
							  rd_kafka_event_t *event, char *error,
							  bool has_error);

/* error_hints.c */
extern bool explain_connection(const rd_kafka_t *handle, const char *text,
							   char *error);
extern void explain_refusal(const KafkaConfig *config, char *error);

/* producer_transaction.c */
extern bool transaction_configure(rd_kafka_conf_t *conf,
								  const char *transactional_id, char *error);
extern bool transaction_abandon(Producer *producer);

#endif							/* OUTBOX_CLIENT_H */
