/*-------------------------------------------------------------------------
 *
 * fencing.c
 *	  A relay that Kafka takes nothing from any more, because another one took its
 *	  place, or for other reasons.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/fencing.h"

#include "access/xlog.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "registry/relay_entry.h"
#include "registry/relay_values.h"
#include "relay/delivery/exactly_once.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/last_record.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"

#define REFUSED_MS 5000			/* before the first record is tried again */
#define CLAIM_MS 5000			/* that a successor may take to show itself */
#define RETRY_MS 500

const char	fencing_message[] =
"another relay publishes for this database, and this one has stopped: is this server a former primary, or a copy of one? To take over from the other, ALTER SERVER kafka OPTIONS (SET delivery 'exactly_once')";

/*
 * Stays fenced until the process ends, and shows why.
 */
void
fencing_stay(Relay *relay, const char *message)
{
	relay->fenced = shmem_relay_configuration() + 1;
	/* Nobody takes what it has to say any more. */
	sender_close(relay);
	for (;;)
	{
		relay_obstacle(relay, RELAY_FENCED, message);
		relay_wait(relay, -1);
	}
}

/*
 * Does a record say that another relay is to publish instead of us?
 */
bool
fencing_is_successor(const Relay *relay, const PublishedSet *set)
{
	if (relay->exact->claimed)
		return strcmp(set->instance, relay->exact->set.instance) != 0;
	return set->timeline > GetWALInsertionTimeLine();
}

/*
 * Kafka takes nothing from us any more: another relay has taken our name, or
 * our transaction has lasted longer than it may.  The last record tells who
 * came after us, once it has got that far.
 */
void
fencing_fence(Relay *relay)
{
	TimestampTz until = TimestampTzPlusMilliseconds(monotonic_now(), CLAIM_MS);
	PublishedSet set;

	relay->delivery_failed = false;
	sender_close(relay);
	if (!sender_open(relay))
		ending_restart();
	do
	{
		LastRecord	last = last_record_read(relay, DEMAND_NOTHING, &set);

		if (last == LAST_RECORD_NEWER ||
			(last == LAST_RECORD_READ && fencing_is_successor(relay, &set)))
			fencing_stay(relay, fencing_message);
		relay_wait(relay, RETRY_MS);
		sender_poll(relay);
	} while (relay->exact->claimed && monotonic_now() < until);
	if (relay->exact->claimed)
		ereport(LOG,
				(errmsg("outbox relay starts over: Kafka has ended its transaction"),
				 errdetail("It lasted longer than transaction.timeout.ms."),
				 errhint("Raise the option \"transaction.timeout.ms\" of the server \"kafka\".")));
	else
		ereport(LOG,
				(errmsg("outbox relay starts over: another relay was about to publish for this database")));
	ending_restart_later();
}

/*
 * Something has come between two of our records.  Stops if it is a record of
 * another relay, as far as that is committed.  What is in the open transaction
 * is not committed then.
 */
void
fencing_check_successor(Relay *relay)
{
	PublishedSet set;
	LastRecord	last = last_record_read(relay, DEMAND_NOTHING, &set);

	if (last == LAST_RECORD_NEWER ||
		(last == LAST_RECORD_READ && fencing_is_successor(relay, &set)))
	{
		exactly_once_leave(relay);
		fencing_stay(relay, fencing_message);
	}
}

/*
 * Not even our first record is accepted, and that is no matter of time:
 * somebody has to see to it.
 */
void
fencing_refused(Relay *relay, const char *failure)
{
	char		message[RELAY_ERROR_LEN];
	int			delay_ms = REFUSED_MS;

	snprintf(message, sizeof(message),
			 "the relay could not write to the topic \"%s\": %s; it needs the right Write on the topic, which must take any record of the relay",
			 relay->exact->topic, failure);
	relay_obstacle(relay, RELAY_WAITING_CONFIGURATION, message);
	sender_back_off(relay, &delay_ms);
	ending_restart();
}
