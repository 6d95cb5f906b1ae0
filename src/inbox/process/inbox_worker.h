/*-------------------------------------------------------------------------
 *
 * inbox_worker.h
 *	  What the parts of a consumer process share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_INBOX_WORKER_H
#define OUTBOX_INBOX_WORKER_H

#include "postgres.h"

#include "storage/itemptr.h"
#include "storage/latch.h"
#include "utils/hsearch.h"

#include "inbox/subscription/subscription.h"
#include "kafka/config/config.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

/* What is known of whether a partition can be read; see consumer_health.c */
typedef enum PartitionHealth
{
	PARTITION_ASKED,			/* nothing has come since it was assigned, or
								 * sought */
	PARTITION_READ,				/* something has */
	PARTITION_DOUBTED			/* there was an error since */
} PartitionHealth;

/* Whether a partition is still the one that was read; see partition_marks.c */
typedef enum PartitionCheck
{
	CHECK_DONE,
	CHECK_READING,				/* it is read from check_from on */
	CHECK_WANTED,				/* it is still to be sought there */
	CHECK_FAILED				/* it is another one */
} PartitionCheck;

/* What a partition is to be looked at for; see lost_messages.c */
typedef enum PartitionSuspicion
{
	SUSPECT_NOTHING,
	SUSPECT_OFFSET,				/* Kafka may not have the next offset */
	SUSPECT_CONTENT				/* it is another one */
} PartitionSuspicion;

/* A message by which a partition is recognized. */
typedef struct Mark
{
	int64		offset;			/* -1 when there is none */
	int64		checksum;
	int64		time_ms;		/* 0 when it is not known: it is not stored */
} Mark;

#define MARKS 2					/* the last is the last message */

/* A partition that this worker reads. */
typedef struct Partition
{
	ConsumerPartition at;		/* next offset */
	int64		fence;			/* of the position row, while it is ours */
	int64		rerun_until;	/* messages before it are processed again, */
	TimestampTz rerun_since;	/* unless they were since */
	ItemPointerData place;		/* of that row, if it is valid and still there */
	int64		stored;			/* next offset, as committed */
	int64		shown;			/* next offset, as Kafka's group has it */
	int64		end;			/* where everything was read, or -1; see
								 * partition_end.c */
	bool		end_noted;		/* and not passed yet; */
	struct Partition *next_ended;	/* the next of those */
	int64		known_end;		/* where it ends, as far as is known, or -1; */
	TimestampTz known_at;		/* and since when, by monotonic_now() */
	TimestampTz read_until;		/* timestamp of the last message; 0 if none */
	Mark		marks[MARKS];
	bool		marked;			/* they are still to be stored */
	PartitionCheck check;
	int64		check_from;
	bool		matched;		/* a mark was found since */
	bool		rechecked;		/* it is compared with the verified marks */
	Mark		verified[MARKS];	/* when it was last known to be the one
									 * that was read, */
	int64		verified_ms;	/* a Unix time; see topic_recreation.c */
	Mark		asked[MARKS];	/* when that was asked last, */
	int64		asked_ms;
	int64		asked_position;
	int64		watch_time_ms;	/* first message after it is asked for, */
	int64		watch_offset;	/* and was not before; -1 until known */
	bool		other_cluster;	/* the position is from another one */
	TimestampTz held_since;		/* by a producer's transaction; 0 if it is
								 * not, DT_NOEND when that was told */
	PartitionSuspicion suspect;
	bool		lost;			/* the next offset is not there, or another
								 * message */
	bool		is_new;			/* it had no position before */
	bool		unsought;		/* where it is to be read from is not known:
								 * it was gone when we looked */
	bool		gone;			/* its topic was deleted, or has fewer
								 * partitions now, or is not taken any more:
								 * what waits of it is tried all the same */
	int			suspects;		/* so many of the next messages may have
								 * crashed the server; see crash_suspects.c */
	int64		began_at;		/* next offset when the worker met it */
	PartitionHealth health;
	bool		refused;		/* the error was about this partition */
	TimestampTz assigned_at;	/* by monotonic_now(); */
	TimestampTz asked_at;		/* when it was sought since, or 0; */
	int			in_vain;		/* so often without a sign */
} Partition;

/* Messages that have failed for good and are to be logged; see failure_report.c */
typedef struct FailureReport
{
	int			pending;		/* in the transaction that is running */
	int			count;			/* since the last line */
	TimestampTz logged_at;		/* by monotonic_now(); 0 when there was none */
	char		event_id[128];	/* of the last */
	char		sqlstate[6];
} FailureReport;

/* How calls of the handler come out; see handler_backoff.c */
typedef struct Pace
{
	/* In the transaction that is running */
	bool		succeeded;
	bool		failed;
	/* In the turn */
	bool		tried;
	bool		slow;			/* the last was, and failed */
	int			nslow;			/* transactions so far that were */
	int			pause_ms;		/* the last one; 0 when all is well */
	TimestampTz until;			/* when it ends, by monotonic_now() */
	int			sqlstate;		/* of the last failure */
	char		error[CONSUMER_MESSAGE_LEN];
} Pace;

/* What a partition is found by. */
typedef struct TopicPartition
{
	char		topic[CONSUMER_TOPIC_LEN];
	int			partition;
} TopicPartition;

/* What a transaction is at, as far as it matters if the process ends. */
typedef enum TransactionPhase
{
	PHASE_OWN,					/* the worker's own statements, or none */
	PHASE_HANDLER,				/* the handler runs */
	PHASE_COMMIT,				/* it is being committed */
	PHASE_ANEW					/* it was undone, and is to begin anew */
} TransactionPhase;

/* A look for topics and partitions; see topic_search.c */
typedef struct Search Search;

typedef struct InboxWorker
{
	ConsumerEntry *entry;
	ConsumerStatus status;		/* published by worker_show() */
	Subscription *subscription;
	uint64		subscriptions;	/* shared counter when it was read */
	int64		listed;			/* generation of the entry then: the list may
								 * have been older */
	KafkaConfig *config;
	uint64		configuration;	/* shared counter when config was read */
	Consumer   *consumer;
	WaitEventSet *wait_set;		/* latch, postmaster, consumer */
	void		(*leave) (struct InboxWorker *worker);	/* what is to be done
														 * before it ends on
														 * purpose */

	Partition **partitions;
	int			npartitions;
	HTAB	   *partition_table;	/* the same, by TopicPartition */
	Partition  *ended;			/* the first of which an end was noted */
	int			next_end;		/* the partition whose end is asked for next */
	bool		suspects;		/* one of them is suspect, */
	TimestampTz losses_at;		/* and is to be looked at, by monotonic_now() */
	bool		settled;		/* something has come of each; see
								 * consumer_health.c */
	bool		offsets_moved;	/* Kafka's group may not have all of them */
	Search	   *search;			/* under way; or NULL */
	long		patience_ms;	/* that its answers may take */
	char		cluster[CONSUMER_CLUSTER_LEN];	/* its id; "" until known */
	bool		looked_for_strays;
	char	   *strays;			/* found in the last look; NULL for none, see */
	TimestampTz strays_since;	/* stray_positions.c */
	bool		unchecked;		/* some are to be checked; see
								 * partition_marks.c */
	TimestampTz told_at;		/* of transactions, by monotonic_now() */
	TimestampTz expire_at;		/* when to look for old messages, by
								 * monotonic_now() */
	TimestampTz refresh_at;		/* when to ask for topics and partitions, the
								 * same */
	TimestampTz ask_same_at;	/* when to ask whether topics are what was
								 * read, if some are missing, the same */
	bool		looked;			/* there was a look for topics, or its answer
								 * takes long */
	bool		complete;		/* the last one found all */
	bool		unreached;		/* if not: no broker has answered */
	char		locked[CONSUMER_MESSAGE_LEN];	/* what could not be taken
												 * over in it; "" for nothing */

	/* See consumer_health.c */
	TimestampTz doubted_at;		/* when a connection was lost, and nothing has
								 * come of some partition since; or 0 */
	TimestampTz reason_at;		/* of the last error that the library told */
	char		group_error[CONSUMER_MESSAGE_LEN];	/* last shown; see
													 * consumer_health.c */
	uint64		errors_seen;
	TimestampTz assigned_at;	/* for lack of a sign, by monotonic_now() */
	uint64		doubts_seen;
	uint64		group_errors_seen;

	/* What was fetched and not given back */
	ConsumerRecord *records;
	int			nrecords;

	/* Messages that wait to be tried again; see redelivery.c */
	HTAB	   *waiting;
	bool		full;			/* so many wait that nothing is fetched */
	bool		wants_subscription; /* its row, or what who has locked that
									 * may have locked; see position_table.c */
	FailureReport report;
	Pace		pace;
	bool		crashed;		/* not in inbox.crash_marker yet; see
								 * crash_suspects.c */
	int			suspects_at_once;	/* so many are looked at together while
									 * none of them is to be handled */
	double		transaction_limit;	/* in messages; see batch_transaction.c */
	TimestampTz transaction_began;	/* by monotonic_now() */
	TransactionPhase phase;
	Partition  *charged;		/* of a message that was charged and has come
								 * to no end; NULL if none; see
								 * suspect_attempt.c */
	int64		charged_offset;

	bool		uncounted;		/* the lag was not counted when it was shown */
	bool		lasted;			/* has run for so long that it works */
	/* By monotonic_now() */
	TimestampTz began_at;
	TimestampTz report_at;		/* when statistics are to be reported */
	TimestampTz shown_at;
	TimestampTz counted_at;		/* the lag */
	TimestampTz committed_at;	/* offsets, to Kafka */
} InboxWorker;

#endif							/* OUTBOX_INBOX_WORKER_H */
