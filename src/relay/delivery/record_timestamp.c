/*-------------------------------------------------------------------------
 *
 * record_timestamp.c
 *	  The Kafka timestamp of an event.
 *
 * It is the time of the commit.  But brokers count from it for how long a
 * record is kept, and may refuse one that is too far from their own time.  So
 * what is sent long after its commit has the time of sending instead, and so
 * has what was set aside or is replayed, and everything if the administrator
 * wants it so.
 *
 * How long after the commit that is, is our choice, until a broker refuses
 * less.  Then what is half as old already has the time of sending, in this
 * relay and those after it, until the server is restarted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/record_timestamp.h"

#include "utils/timestamp.h"

#include "kafka/producer/producer.h"
#include "relay/state/commit.h"
#include "relay/state/relay.h"

#define USUAL_MAX_AGE (INT64CONST(3600) * USECS_PER_SEC)

/* How old the time of a commit may be, in us, to be that of the record. */
static int64
max_age(const Relay *relay)
{
	return relay->max_age > 0 ? relay->max_age : USUAL_MAX_AGE;
}

/*
 * The timestamp of an event that is about to be sent.
 */
int64
record_timestamp_of(const Relay *relay, const Commit *commit)
{
	int64		age;

	if (commit->send_time || relay->config->send_time)
		return TIMESTAMP_NOW;
	age = GetCurrentTimestamp() - commit->time;
	/* Below 0 when the clock was set back. */
	if (age < 0 || age > max_age(relay))
		return TIMESTAMP_NOW;
	return commit->time / 1000 +
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * INT64CONST(86400000);
}

/*
 * A broker has refused an event, which was sent alone, for its timestamp.
 * Returns whether it has another one from now on.  If not, the clock is wrong
 * here, or there, and the age of the commit makes no difference.
 */
bool
record_timestamp_refused(Relay *relay, const Commit *commit, int64 timestamp_ms)
{
	if (timestamp_ms == TIMESTAMP_NOW)
	{
		relay->max_age = 0;
		return false;
	}
	relay->max_age = Min(max_age(relay),
						 Max(GetCurrentTimestamp() - commit->time, 0)) / 2;
	relay->max_age = Max(relay->max_age, 1);
	return true;
}
