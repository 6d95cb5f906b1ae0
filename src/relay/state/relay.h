/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  What the parts of the relay process share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_RELAY_H
#define OUTBOX_RELAY_H

#include "postgres.h"

#include "storage/latch.h"

#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "registry/relay_values.h"
#include "relay/state/ledger.h"
#include "relay/state/parked_topics.h"
#include "relay/state/record_encoder.h"

/* A wait for something to pass begins with this, and doubles. */
#define FIRST_BACKOFF_MS 100

/* How long a Kafka transaction may stand still at first; doubles likewise. */
#define FIRST_PATIENCE_MS 3000

typedef struct ExactlyOnce ExactlyOnce;

/* What a broker was asked, to see whether it answers. */
typedef struct BrokerQuestion
{
	uint64		number;			/* 0 for none */
	TimestampTz asked_at;		/* by monotonic_now() */
} BrokerQuestion;

typedef struct Relay
{
	RelayStatus status;			/* published by relay_show() */
	RelayState	working_state;	/* what to show when nothing is in the way */
	RelayState	logged_state;	/* obstacle that the log tells of */
	XLogRecPtr	began_lsn;		/* end of WAL when this process began */
	bool		caught_up;		/* decoding is past that: what is stored and
								 * comes again has come */
	uint64		requests;		/* shared counter when we looked for the
								 * extension */

	/* Kafka; all NULL until there is a configuration */
	KafkaConfig *config;
	uint64		configuration;	/* shared counter when config was read */
	Producer   *producer;
	WaitEventSet *wait_set;		/* latch, postmaster, producer */

	/* Kafka transactions; see exactly_once.c */
	ExactlyOnce *exact;			/* NULL unless deliveries are exact */
	int			patience;		/* ms, with a transaction that does not move */
	uint64		fenced;			/* shared counter of configurations, plus one,
								 * when another relay took over; else 0 */

	/* What is under way; see sender.c */
	Ledger	   *ledger;
	Encoder		encoder;
	uint64		alone_left;		/* events left to send one at a time */
	uint64		refused_through;	/* one more than the number of the last
									 * refused event; 0 if none */
	int64		max_age;		/* of timestamps; see record_timestamp.c */
	uint64		set_aside;		/* events that were not sent, so far */
	bool		connected;		/* a broker answered, and no error since */
	BrokerQuestion question;	/* does one? */
	TimestampTz opened_at;		/* the producer */
	int			reopen_delay;	/* ms, before a broken producer is replaced */
	bool		held;			/* an event was not accepted: only its
								 * delivery clears the way */
	uint64		errors_seen;	/* of the producer's */
	uint64		unanswered_seen;	/* of what it asked */
	uint64		errors_past;	/* those before all was well the last time */
	uint64		retries_before; /* retries counted by former producers */
	bool		acknowledged;	/* something was, since last looked */
	TimestampTz waiting_since;	/* last acknowledgement, or when the first of
								 * what is in flight was sent */
	BrokerQuestion stuck_question;	/* does one, though nothing moves? */
	TimestampTz stuck_reached_at;	/* since when; 0 if none does */
	uint64		stuck_next;		/* number of the first event that is not
								 * acknowledged, */
	TimestampTz stuck_since;	/* and since when */
	bool		stuck;			/* what is in flight waits for what is parked */
	struct Parked *releasing;	/* whose events are sent now; NULL if none */
	bool		can_resend;		/* whoever sends now starts again by himself */
	bool		broken;			/* and has to: see sender_finish() */
	bool		delivery_failed;
	DeliveryResult failure;
	const char *failure_name;	/* librdkafka's name of the code */
	char		failure_text[PRODUCER_ERROR_LEN];
	int			batch_bytes;	/* to be sent at once, at most; 0: as set */
	int			ntoo_large;		/* messages that this producer has sent and
								 * that were refused for their size, or that
								 * of their batch; */
	int			too_large;		/* bytes of the smallest one's payload; 0 for
								 * none */
	int			too_large_sent; /* bytes that a broker gets of it when it is
								 * sent alone; -1 if not known */
	char		too_large_topic[SUSPECT_TOPIC_LEN];

	TimestampTz shown_at;		/* when status was last published */
	void		(*note_source) (struct Relay *relay);	/* adds to status what
														 * is known where events
														 * come from; or NULL */
} Relay;

#endif							/* OUTBOX_RELAY_H */
