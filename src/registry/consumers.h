/*-------------------------------------------------------------------------
 *
 * consumers.h
 *	  Shared memory: the consumers of all databases.
 *
 * There is an entry for each worker of each subscription, and one for a
 * database whose subscriptions are to be listed; the latter are never in want
 * of room, since they alone can make some.  Who fills them: a "scout" reads
 * inbox.subscription (the relay when it starts, else a short-lived process),
 * and the launcher starts what is wanted and not there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMERS_H
#define OUTBOX_CONSUMERS_H

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

/* A subscription, as a scout saw it. */
typedef struct ListedSubscription
{
	const char *name;
	int			workers;
	int64		generation;
} ListedSubscription;

extern void consumers_set_state(ConsumerStatus *status, ConsumerState state);

extern void consumers_shmem_init(void);
extern int	consumers_size(void);
extern int	consumers_workers(void);
extern ConsumerEntry *consumers_entry(int index);

/* Any backend. */
extern void consumers_request_scout(Oid database);
extern void consumers_dismiss(Oid database);
extern bool consumers_present(Oid database);
extern bool consumers_crowded(Oid database);
extern void consumers_wake(Oid database);
extern void consumers_wake_entry(ConsumerEntry *entry);
extern void consumers_terminate(Oid database);

/* Scouts. */
extern bool consumers_finish_scout(ConsumerEntry *entry, int64 generation);
extern uint64 consumers_list_number(Oid database);
extern bool consumers_publish_list(Oid database, uint64 number,
								   const ListedSubscription *list, int n);

/* The launcher. */
extern void consumers_end(ConsumerEntry *entry, pid_t pid);
extern void consumers_make_way(int n);
extern void consumers_has_made_way(ConsumerEntry *entry);
extern void consumers_release(ConsumerEntry *entry);
extern void consumers_report_failure(ConsumerEntry *entry, const char *message);

/* A consumer, about the entry that it is attached to. */
extern ConsumerEntry *consumers_attach(int index);
extern void consumers_progress(ConsumerEntry *entry);
extern void consumers_show(ConsumerEntry *entry, const ConsumerStatus *status);
extern void consumers_load(ConsumerEntry *entry, ConsumerStatus *status);
extern uint64 consumers_configuration(void);
extern uint64 consumers_subscriptions(void);
extern bool consumers_must_leave(const ConsumerEntry *entry);

/* consumer_supervisor.c */
extern void launch_init(void);
extern void launch_make_way(void);
extern TimestampTz launch_tend(void);

#endif							/* OUTBOX_CONSUMERS_H */
