/*-------------------------------------------------------------------------
 *
 * producer_state.h
 *	  What the files behind producer.h share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_STATE_H
#define OUTBOX_PRODUCER_STATE_H

#include "postgres.h"

#include "utils/hsearch.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/broker_request.h"
#include "kafka/client/client.h"
#include "kafka/config/config.h"
#include "kafka/producer/compression.h"
#include "kafka/producer/producer.h"

#define MAX_HANDLES 64			/* of a producer */
#define LEADER_SLOTS 64			/* leaders that are told from each other */

/* Finds the partition of a key: one of librdkafka's own. */
typedef int32_t(*Partitioner) (const rd_kafka_topic_t *topic,
							   const void *key, size_t len,
							   int32_t npartitions,
							   void *topic_opaque, void *opaque);

/* Times are by monotonic_now(). */
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
	TimestampTz answered_at;	/* by monotonic_now(); 0 for never */
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

typedef struct Creation Creation;

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
	TimestampTz crowded_since;	/* by monotonic_now() */
	TimestampTz flushed_until;	/* likewise */
	TimestampTz kept_until;		/* the same while crowded; 0 if not */
} Flushing;

/* What a handle has to do with one leader, or the leaders of one slot. */
typedef struct HandleLeader
{
	int			busy;			/* partitions with messages under way */
	uint32		answered;		/* requests, of those that were counted */
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
	uint32		fastest_us;		/* answer to a request lately, */
	uint32		fastest_before_us;	/* and before that; 0 for none */
	int			nanswered;		/* requests, so far */
	uint64		outstanding;	/* messages under way, of all handles, */
	uint64		outstanding_bytes;	/* their size, */
	uint64		max_outstanding;	/* and what that may be */
	uint64		max_outstanding_bytes;
	bool		backlog;		/* there is one; see backlog.c */
	TimestampTz backlog_at;		/* when there last was; 0 for not lately */
	bool		refused;		/* there was no room for the last message */
	bool		caught_up;		/* there was nothing more to send, */
	TimestampTz caught_up_at;	/* and the wait for it has ended then */
	int			nused;			/* handles that partitions may get; 0 for any */
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
								 * monotonic_now(); 0 for none */
	bool		reached;		/* did the last answer come from a broker? */
	uint64		unanswered;		/* questions that no broker answered */
	ProducerStats stats;
	char		error[PRODUCER_ERROR_LEN];	/* of the last call that failed */
	const char *error_name;		/* its code */
};

#endif							/* OUTBOX_PRODUCER_STATE_H */
