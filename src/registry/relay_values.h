/*-------------------------------------------------------------------------
 *
 * relay_values.h
 *	  What shared memory has of a relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_VALUES_H
#define OUTBOX_RELAY_VALUES_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

#include "core/last_error.h"

#define RELAY_ERROR_LEN LAST_WORDS_LEN

typedef enum RelayState
{
	RELAY_STOPPED = 0,
	RELAY_STARTING,
	RELAY_WAITING_CONFIGURATION,
	RELAY_WAITING_KAFKA,
	RELAY_CATCHING_UP,
	RELAY_STREAMING,
	RELAY_COPIED,
	RELAY_POLLING,
	RELAY_FENCED
} RelayState;

/*
 * What stat_relay shows.  The relay works on a copy of its own and publishes
 * it as a whole, so that the hot path takes no lock.
 */
typedef struct RelayStatus
{
	RelayState	state;
	TimestampTz state_since;
	TimestampTz started_at;
	NameData	slot;
	XLogRecPtr	received;		/* end of what was decoded */
	XLogRecPtr	confirmed;		/* everything before is acknowledged */
	TimestampTz oldest_commit;	/* first commit not acknowledged; 0 if none */
	uint64		events;			/* acknowledged, since the server started */
	uint64		bytes;			/* of their keys and values */
	uint64		retries;
	int64		in_flight;
	int64		round_trip_us;	/* -1 when unknown */
	bool		catching_up;	/* are the next two of use? */
	int64		catchup_done;	/* events of the round that are acknowledged */
	int64		catchup_left;	/* and those that are not */
	TransactionId pinned_by;	/* the first open transaction, for which the
								 * slot holds WAL, or a new slot waits;
								 * invalid for none */
	TimestampTz error_at;		/* 0 when there was none */
	char		error[RELAY_ERROR_LEN];
} RelayStatus;

#define SUSPECT_TOPIC_LEN 250	/* the name, with the zero byte */
#define SUSPECT_ERROR_LEN 128
#define HANDOVER_SUSPECTS 4

/* A topic that has refused something. */
typedef struct SuspectTopic
{
	char		name[SUSPECT_TOPIC_LEN];	/* hash key */
	int			size;			/* payload of the smallest that was refused
								 * for its size; 0: it refuses all; INT_MAX:
								 * nothing for its size */
	int			wire_size;		/* with key and headers; INT_MAX if not known */
	bool		single;			/* it has refused an event that was not like
								 * others, */
	bool		keyless;		/* or only since that had no key */
	bool		taken;			/* but what is like it was taken in the open
								 * Kafka transaction */
	TimestampTz refused_at;		/* the last one, by monotonic_now() */
	char		error_name[48]; /* librdkafka's */
	char		error[SUSPECT_ERROR_LEN];
} SuspectTopic;

/*
 * What a relay leaves to the next one of the same database, so that it sends
 * nothing again that is acknowledged.  Lost in a crash of the server; then
 * the watermark serves.
 */
typedef struct RelayHandover
{
	XLogRecPtr	acknowledged;	/* all commits that end here or before are */
	XLogRecPtr	commit;			/* of the one that ends here, which is later, */
	uint64		events;			/* so many events are; invalid and 0 if none */
	uint64		alone_left;		/* events to be sent one at a time */
	int			patience;		/* ms, with a Kafka transaction */
	int64		max_age;		/* of timestamps, in us; 0 for the usual one */
	uint64		fenced;			/* counter of configurations, plus one, when
								 * another relay took over; else 0 */
	int			batch_bytes;	/* to be sent at once, at most; 0: as set */
	int			nsuspects;
	SuspectTopic suspects[HANDOVER_SUSPECTS];	/* those of the last refusals */
} RelayHandover;

#endif							/* OUTBOX_RELAY_VALUES_H */
