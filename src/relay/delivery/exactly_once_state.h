/*-------------------------------------------------------------------------
 *
 * exactly_once_state.h
 *	  What the files about Kafka transactions share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EXACTLY_ONCE_STATE_H
#define OUTBOX_EXACTLY_ONCE_STATE_H

#include "postgres.h"

#include "relay/state/published_set.h"
#include "relay/state/relay.h"
#include "relay/state/watermark.h"

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

#endif							/* OUTBOX_EXACTLY_ONCE_STATE_H */
