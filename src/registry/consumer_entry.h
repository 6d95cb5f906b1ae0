/*-------------------------------------------------------------------------
 *
 * consumer_entry.h
 *	  What shared memory has of a consumer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_ENTRY_H
#define OUTBOX_CONSUMER_ENTRY_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/latch.h"
#include "storage/spin.h"

#include "core/last_error.h"

#define CONSUMER_NAME_LEN 256	/* name of a subscription, and a zero */
#define CONSUMER_MESSAGE_LEN LAST_WORDS_LEN
#define SCOUT_WORKER (-1)		/* worker number of a scout */

typedef enum ConsumerState
{
	CONSUMER_STOPPED = 0,
	CONSUMER_STARTING,
	CONSUMER_RUNNING,
	CONSUMER_WAITING_KAFKA,
	CONSUMER_DATA_LOST,
	CONSUMER_FULL,				/* too much waits to be tried again */
	CONSUMER_BACKING_OFF,		/* the handler takes long and fails */
	CONSUMER_WAITING_LOCK		/* somebody else has locked a position */
} ConsumerState;

/* What stat_subscription shows of a worker. */
typedef struct ConsumerStatus
{
	ConsumerState state;
	TimestampTz state_since;	/* 0 when it was never started */
	int			partitions;
	int64		lag;			/* messages still to be read; -1 when unknown */
	TimestampTz read_until;		/* timestamp of the last message that was
								 * read; 0 when there is none */
	TimestampTz started_at;
	TimestampTz error_at;		/* 0 when there was none */
	char		error[CONSUMER_MESSAGE_LEN];
} ConsumerStatus;

/*
 * A set of messages, as a Bloom filter: what is in it is found for sure, and
 * sometimes something that is not.  See inbox/batch/crash_suspects.c.
 */
#define MESSAGE_SET_WORDS 512

typedef struct MessageSet
{
	int			n;				/* messages that were added */
	uint64		bits[MESSAGE_SET_WORDS];
} MessageSet;

/*
 * Protected by the registry's lock, where nothing else is said.  The consumer
 * itself reads its latch, "wanted", "yields" and "generation" without it.
 */
typedef struct ConsumerEntry
{
	Oid			database;		/* InvalidOid when the entry is free */
	char		name[CONSUMER_NAME_LEN];	/* of the subscription; "" for a
											 * scout */
	int			worker;			/* 0 to workers - 1, or SCOUT_WORKER */
	bool		wanted;			/* shall there be a process? */
	bool		listed;			/* used while a list is made */
	bool		yields;			/* the process is to leave its slot to a
								 * relay, or has just left and may have it
								 * still */
	int64		generation;		/* of the subscription, as last listed */
	pid_t		pid;			/* 0 when there is none */
	Latch	   *latch;
	int			failures;		/* starts since the last progress */
	/* Only the consumer touches these; they outlive its process */
	MessageSet	under_way;		/* messages of its transaction */
	MessageSet	suspects;		/* those of which one ended a process */
	bool		seasoned;		/* a consumer has worked since the server
								 * started */
	slock_t		mutex;			/* protects what follows */
	ConsumerStatus status;
} ConsumerEntry;

#endif							/* OUTBOX_CONSUMER_ENTRY_H */
