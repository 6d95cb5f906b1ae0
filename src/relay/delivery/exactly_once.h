/*-------------------------------------------------------------------------
 *
 * exactly_once.h
 *	  Kafka transactions of whole PostgreSQL transactions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXACTLY_ONCE_H
#define OUTBOX_EXACTLY_ONCE_H

#include "postgres.h"

#include "core/compat.h"
#include "kafka/producer/producer_transaction.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"
#include "relay/table/watermark_table.h"

#define PROGRESS_OPAQUE PG_UINT64_MAX	/* of a progress record */

struct ExactlyOnce
{
	char	   *topic;			/* of progress records */
	int64		record_offset;	/* there, of the last one; those of others may
								 * be higher */
	bool		topic_is_new;	/* it has begun anew since */
	bool		has_gap;		/* something came between two records of ours */
	int			topic_max_bytes;	/* of a record there */
	PublishedSet set;			/* what is on Kafka when the open transaction
								 * is committed */
	XLogRecPtr	base_lsn;		/* set.snapshot shows nothing committed after */
	XLogRecPtr	stored_lsn;		/* base_lsn of the last watermark stored */
	Watermark  *proposal;		/* to be the next base; NULL for none */
	TimestampTz proposed_at;
	uint64		events_proposed;	/* status.events then */
	bool		claimed;		/* the progress topic says that we are here */
	bool		open;			/* a Kafka transaction is */
	TimestampTz opened_at;
	TimestampTz ended_at;		/* when the one before was due */
	uint64		sent;			/* events in the open transaction, but for
								 * those that were not sent after all */
	TimestampTz moved_at;		/* when Kafka was last not to blame */
	BrokerQuestion question;	/* does it answer? */
	uint64		sent_bytes;		/* in the open one */
	uint64		events;			/* of it, acknowledged so far */
	uint64		bytes;			/* of those */
};

/* exactly_once.c */
extern void exactly_once_event(Relay *relay, const Event *event,
							   const Commit *commit);
extern void exactly_once_delivered(Relay *relay, const Delivery *delivery);
extern bool exactly_once_is_full(const Relay *relay);
extern bool exactly_once_is_due(const Relay *relay, bool idle);
extern void exactly_once_step(Relay *relay, bool idle);
extern long exactly_once_idle_time(const Relay *relay, long timeout_ms);
extern bool exactly_once_ends_soon(const Relay *relay);
extern void exactly_once_commit(Relay *relay, XLogRecPtr position);
extern XLogRecPtr exactly_once_position(const Relay *relay);
extern void exactly_once_reached(Relay *relay, const Watermark *reached);
extern void exactly_once_leave(Relay *relay);
extern void exactly_once_seal(Relay *relay);
extern void exactly_once_expect_refusal(Relay *relay);
extern bool exactly_once_has_time(const Relay *relay);
extern bool exactly_once_drop(Relay *relay);

/* exactly_once_stall.c */
extern void exactly_once_check_stall(Relay *relay);
extern TransactionResult exactly_once_wait(Relay *relay, TimestampTz since);
pg_noreturn extern void exactly_once_start_over(Relay *relay);

/* relay_takeover.c */
extern void resume_start(Relay *relay);
extern void resume_check_successor(Relay *relay);
pg_noreturn extern void resume_fence(Relay *relay);
pg_noreturn extern void resume_refused(Relay *relay, const char *failure);

#endif							/* OUTBOX_EXACTLY_ONCE_H */
