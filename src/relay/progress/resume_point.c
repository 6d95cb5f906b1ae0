/*-------------------------------------------------------------------------
 *
 * resume_point.c
 *	  What a relay leaves to the next one of the same database.
 *
 * It is in shared memory, and says how far acknowledgements have come, down to
 * the event in the middle of a transaction.  So a relay that starts over sends
 * nothing twice.  A crash of the server loses it; then the watermark serves.
 *
 * A commit is known by where its record ends, since that never comes again, as
 * a transaction id of 32 bits does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/progress/resume_point.h"

#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "relay/state/commit.h"
#include "relay/state/ledger.h"
#include "relay/state/relay.h"
#include "relay/state/suspect_topics.h"

static RelayHandover inherited;
static uint64 inherited_left;	/* events of inherited.commit still to skip */

/*
 * Takes over what the relay before us left.
 */
void
resume_point_take(Relay *relay)
{
	shmem_relay_get_handover(&inherited);
	inherited_left = inherited.events;
	relay->alone_left = inherited.alone_left;
	relay->fenced = inherited.fenced;
	relay->max_age = inherited.max_age;
	relay->patience = Max(inherited.patience, FIRST_PATIENCE_MS);
	relay->batch_bytes = inherited.batch_bytes;
	suspect_topics_take(&inherited);
}

/*
 * Did the relay before us get an acknowledgement for this event?  Asked for
 * each event once, in order.
 */
bool
resume_point_covers(const Commit *commit)
{
	if (commit->end <= inherited.acknowledged)
		return true;
	if (inherited_left == 0 || commit->end != inherited.commit)
		return false;
	inherited_left--;
	return true;
}

/*
 * Tells the next relay where to go on: at a position of the ledger, in front of
 * which everything must be on Kafka, or stored as refused.
 */
void
resume_point_leave(Relay *relay, const LedgerPosition *position)
{
	RelayHandover next = inherited;

	next.acknowledged = Max(inherited.acknowledged, position->acknowledged);
	if (!XLogRecPtrIsInvalid(position->commit))
	{
		next.commit = position->commit;
		next.events = position->events +
			(position->commit == inherited.commit ? inherited.events : 0);
	}
	else if (next.commit <= next.acknowledged)
	{
		next.commit = InvalidXLogRecPtr;
		next.events = 0;
	}
	next.alone_left = relay->alone_left;
	next.fenced = relay->fenced;
	next.patience = relay->patience;
	next.batch_bytes = relay->batch_bytes;
	suspect_topics_leave(&next);
	next.max_age = relay->max_age;
	shmem_relay_set_handover(&next);
}
