/*-------------------------------------------------------------------------
 *
 * databases.h
 *	  Shared memory: which databases have a relay, and how each one fares.
 *
 * The registry has one entry for each database that holds the extension, or
 * may hold it.  Launcher, relays and ordinary backends meet here and nowhere
 * else.  Every function tolerates a server that was started without us in
 * shared_preload_libraries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DATABASES_H
#define OUTBOX_DATABASES_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "storage/latch.h"

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
	TimestampTz refused_at;		/* the last one, by steady_now() */
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
	uint64		careful;		/* events to be sent one at a time */
	int			patience;		/* ms, with a Kafka transaction */
	int64		max_age;		/* of timestamps, in us; 0 for the usual one */
	uint64		fenced;			/* counter of configurations, plus one, when
								 * another relay took over; else 0 */
	int			batch_bytes;	/* to be sent at once, at most; 0: as set */
	int			nsuspects;
	SuspectTopic suspects[HANDOVER_SUSPECTS];	/* those of the last refusals */
} RelayHandover;

/* A copy of an entry, as the launcher wants it. */
typedef struct DatabaseInfo
{
	Oid			database;
	pid_t		pid;			/* of its relay; 0 when it has none */
	bool		looking;		/* the relay does not know yet whether the
								 * extension is there */
	bool		absent;			/* the relay found no extension there */
	bool		held;			/* a utility command wants nobody there */
	int			failures;		/* starts without progress since */
	bool		failed;			/* the last relay ended with an error */
	int			errors;			/* relays that did, since one had lasted */
	uint64		requests;		/* times that somebody asked for a relay */
} DatabaseInfo;

extern void shmem_init(void);
extern bool shmem_available(void);
extern void shmem_set_state(RelayStatus *status, RelayState state);

/* Any backend. */
extern void shmem_wake_relay(Oid database);
extern bool shmem_request_relay(Oid database);
extern void shmem_configuration_changed(Oid database);
extern void shmem_subscriptions_changed(Oid database);
extern bool shmem_hold_database(Oid database);
extern void shmem_wait_for_leave(Oid database);
extern void shmem_release_database(Oid database);
extern void shmem_set_prepared_changes(void);
extern bool shmem_prepared_changes(void);
extern bool shmem_wait_published(Oid database, XLogRecPtr position,
								 uint64 round, long timeout_ms);
extern uint64 shmem_last_round(void);
extern bool shmem_full(void);
extern uint64 shmem_reloads(void);
extern bool shmem_read_status(Oid database, RelayStatus *status, pid_t *pid);

/* The launcher. */
extern void shmem_launcher_attach(void);
extern void shmem_count_reload(void);
extern int	shmem_list_databases(DatabaseInfo *list, int size);
extern bool shmem_overflowed(void);
extern void shmem_forget_database(const DatabaseInfo *info);
extern void shmem_count_start(Oid database, bool afresh);
extern void shmem_report_failure(Oid database, const char *message);

/* A relay, about the entry that it is attached to. */
extern bool shmem_relay_attach(Oid database);
extern bool shmem_is_relay(void);
extern bool shmem_relay_failed(void);
extern uint64 shmem_relay_requests(void);
extern bool shmem_relay_absent(uint64 requests);
extern void shmem_relay_publish(const RelayStatus *status);
extern void shmem_relay_load(RelayStatus *status);
extern bool shmem_relay_must_leave(void);
extern bool shmem_relay_must_not_wait(void);
extern uint64 shmem_relay_configuration(void);
extern void shmem_relay_progress(void);
extern void shmem_relay_published(XLogRecPtr position);
extern uint64 shmem_relay_begin_round(void);
extern void shmem_relay_polled(uint64 round);
extern void shmem_relay_get_handover(RelayHandover *handover);
extern void shmem_relay_set_handover(const RelayHandover *handover);

#endif							/* OUTBOX_DATABASES_H */
