/*-------------------------------------------------------------------------
 *
 * last_record.h
 *	  The last record of the progress topic.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LAST_RECORD_H
#define OUTBOX_LAST_RECORD_H

#include "postgres.h"

#include "relay/state/published_set.h"
#include "relay/state/relay.h"

typedef enum LastRecord
{
	LAST_RECORD_NONE,
	LAST_RECORD_READ,
	LAST_RECORD_NEWER			/* of a release that is newer than ours */
} LastRecord;

/* What has to be so before it can be read; each includes the one before. */
typedef enum RecordDemand
{
	DEMAND_NOTHING,
	DEMAND_TOPIC,				/* the topic is as it must be */
	DEMAND_ALL					/* nothing is hidden by somebody's open
								 * transaction */
} RecordDemand;

extern LastRecord last_record_read(Relay *relay, RecordDemand demand,
								   PublishedSet *set);

#endif							/* OUTBOX_LAST_RECORD_H */
