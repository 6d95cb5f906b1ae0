/*-------------------------------------------------------------------------
 *
 * last_record.c
 *	  The last record of the progress topic.
 *
 * What a relay goes on from when deliveries are exact: so the topic has to be
 * as it must be (kafka/consumer/progress_topic_check.c), and what keeps it
 * from that is shown and waited for.
 *
 * Others may have written there, too.  A record is one of ours when it has our
 * key and tells of our database.  Any other is passed over:
 *
 *	 a tombstone			takes nothing back: what an earlier record says of
 *							Kafka is still true
 *	 what is no record, or	is not about us
 *	 of another database
 *	 an aborted one			is never seen
 *
 * But one of ours that a newer release wrote must not be passed over: events
 * would come twice that it says are published, and whoever wrote it may be our
 * successor.  So it is waited for, too, until somebody installs that release.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/last_record.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/config/config.h"
#include "kafka/consumer/progress_state.h"
#include "kafka/consumer/progress_topic.h"
#include "kafka/producer/producer.h"
#include "registry/relay_values.h"
#include "relay/delivery/broker_connection.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/sender.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/published_set.h"
#include "relay/state/published_set_json.h"
#include "relay/state/relay.h"

#define FIRST_STEP_MS 5			/* of what is waited for, doubles */
#define LAST_STEP_MS 100
#define PATIENCE_MS 1000		/* before we say that we wait */

static const char hidden[] =
"a Kafka transaction that is open hides what comes behind it in";

/* What one pass over the topic has found. */
typedef struct Search
{
	LastRecord	found;
	MemoryContext context;		/* of the record that was found */
	PublishedSet set;
} Search;

/* Says once that somebody else writes to the topic. */
static void
report_foreign(const Relay *relay, int64 offset, const char *reason)
{
	static bool reported = false;

	if (reported)
		return;
	reported = true;
	ereport(WARNING,
			(errmsg("outbox relay passes over records of the topic \"%s\" that are not its own",
					relay->exact->topic),
			 errdetail("The first one has the offset " INT64_FORMAT ": %s.",
					   offset, reason),
			 errhint("Only this relay may write to that topic; find out who else has the right to.")));
}

/*
 * What the record is to us.  When it is none of ours, *reason says why; when
 * it is one, fills in the set, in the current memory context.
 */
static LastRecord
judge_record(const Relay *relay, const ProgressRecord *record,
			 PublishedSet *set, const char **reason)
{
	const char *malformed;
	SetForm		form;

	*reason = NULL;
	if (record->key.data == NULL ||
		record->key.len != strlen(relay->exact->topic) ||
		memcmp(record->key.data, relay->exact->topic, record->key.len) != 0)
		*reason = "it has another key";
	else if (record->value.data == NULL)
		*reason = "it is a tombstone";
	if (*reason)
		return LAST_RECORD_NONE;
	form = published_set_parse(set, record->value.data, record->value.len,
							   &malformed);
	if (form == SET_MALFORMED)
		*reason = psprintf("it is malformed: %s", malformed);
	else if (set->system_identifier != GetSystemIdentifier() ||
			 set->database != MyDatabaseId)
		*reason = "it tells of another database";
	if (*reason)
		return LAST_RECORD_NONE;
	return form == SET_NEWER ? LAST_RECORD_NEWER : LAST_RECORD_READ;
}

/* Keeps a record if it is one of ours. */
static void
take_record(const Relay *relay, const ProgressRecord *record, Search *search)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "outbox progress record",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PublishedSet set;
	const char *reason;
	LastRecord	found = judge_record(relay, record, &set, &reason);

	if (found == LAST_RECORD_NONE)
		report_foreign(relay, record->offset, reason);
	MemoryContextSwitchTo(old);
	if (found == LAST_RECORD_NONE)
	{
		MemoryContextDelete(context);
		return;
	}
	if (search->context)
		MemoryContextDelete(search->context);
	search->context = context;
	search->found = found;
	search->set = set;
}

/* Does Kafka answer at all? */
static bool
is_connected(Relay *relay)
{
	if (!connection_is_up(relay))
		return false;
	relay->errors_past = producer_stats(relay->producer)->nerrors;
	return true;
}

/*
 * Waits a moment.  When that has lasted since long, says for what: for Kafka,
 * or for something about the topic that Kafka does not do.
 */
static void
wait_a_moment(Relay *relay, TimestampTz since, const char *missing,
			  int *step_ms)
{
	char		reason[RELAY_ERROR_LEN];

	if (TimestampDifferenceExceeds(since, monotonic_now(), PATIENCE_MS))
	{
		snprintf(reason, sizeof(reason), "%s the topic \"%s\"", missing,
				 relay->exact->topic);
		relay_obstacle(relay, RELAY_WAITING_KAFKA,
					   is_connected(relay) ? reason :
					   connection_error(relay));
	}
	relay_wait(relay, *step_ms);
	sender_poll(relay);
	*step_ms = Min(*step_ms * 2, LAST_STEP_MS);
}

/* Looks at the topic, and waits for the result. */
static ProgressState
look(Relay *relay, ProgressTopic *topic, bool strict)
{
	TimestampTz since = monotonic_now();
	ProgressState state;
	int			step_ms = FIRST_STEP_MS;

	progress_topic_look(topic, strict);
	while ((state = progress_topic_state(topic)) == PROGRESS_LOOKING)
		wait_a_moment(relay, since, "Kafka does not tell about", &step_ms);
	return state;
}

/*
 * Looks until the topic can be read; or, unless it has to be there, until it is
 * known that it is not: then returns false.
 */
static bool
wait_for_topic(Relay *relay, ProgressTopic *topic, RecordDemand demand)
{
	bool		strict = demand >= DEMAND_TOPIC;
	int			delay_ms = FIRST_BACKOFF_MS;
	ProgressState state;

	while ((state = look(relay, topic, strict)) != PROGRESS_READY)
	{
		if (state == PROGRESS_ABSENT)
			return false;
		if (state == PROGRESS_UNFIT && !strict)
			return false;
		if (state == PROGRESS_CREATED)
			ereport(DEBUG1,
					(errmsg_internal("outbox relay has created the topic \"%s\"",
									 relay->exact->topic)));
		else
			relay_obstacle(relay, state == PROGRESS_UNFIT ?
						   RELAY_WAITING_CONFIGURATION : RELAY_WAITING_KAFKA,
						   progress_topic_error(topic));
		sender_back_off(relay, &delay_ms);
	}
	return true;
}

/* Reads to the end: returns READ_END, or why that failed. */
static ReadStatus
read_to_end(Relay *relay, ProgressTopic *topic, RecordDemand demand,
			Search *search)
{
	TimestampTz since = monotonic_now();
	int			step_ms = FIRST_STEP_MS;
	bool		is_hidden = false;

	for (;;)
	{
		ProgressRecord record;
		ReadStatus	status = progress_topic_read(topic, 0);

		switch (status)
		{
			case READ_RECORD:
				record = progress_topic_record(topic);
				take_record(relay, &record, search);
				relay_wait(relay, 0);
				step_ms = FIRST_STEP_MS;
				is_hidden = false;
				continue;
			case READ_HIDDEN:
				if (demand < DEMAND_ALL)
					return READ_END;
				is_hidden = true;
				break;
			case READ_NOTHING:
				break;
			case READ_END:
			case READ_REFUSED:
			case READ_FAILED:
				return status;
		}
		wait_a_moment(relay, since, is_hidden ? hidden :
					  "Kafka sends nothing of", &step_ms);
	}
}

/* Finds the last record that is ours; returns as read_to_end(). */
static ReadStatus
search_record(Relay *relay, ProgressTopic *topic, RecordDemand demand,
			  Search *search)
{
	ReadStatus	status;

	if (search->context)
		MemoryContextDelete(search->context);
	memset(search, 0, sizeof(*search));
	do
		status = read_to_end(relay, topic, demand, search);
	while (status == READ_END && search->found == LAST_RECORD_NONE &&
		   progress_topic_read_more(topic));
	return status;
}

/* Says that a newer release has taken over. */
static void
report_newer(Relay *relay, const PublishedSet *set)
{
	char		reason[RELAY_ERROR_LEN];

	snprintf(reason, sizeof(reason),
			 "the topic \"%s\" has a record of version %d, which a newer release of outbox has written; install that release here",
			 relay->exact->topic, set->version);
	relay_obstacle(relay, RELAY_WAITING_CONFIGURATION, reason);
}

/* Says once what could not be found out about the topic, if anything. */
static void
report_doubt(const char *doubt)
{
	static bool reported = false;

	if (doubt[0] != '\0' && !reported)
		ereport(WARNING,
				(errmsg("outbox relay cannot tell whether its progress topic is as it must be: %s",
						doubt)));
	reported = true;
}

/* Opens the topic. */
static ProgressTopic *
open_topic(Relay *relay)
{
	char		error[PRODUCER_ERROR_LEN];
	ProgressTopic *topic = progress_topic_open(relay->config,
											   relay->exact->topic, error);

	if (topic == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
				 errmsg("could not open a Kafka consumer: %s", error)));
	return topic;
}

/*
 * Reads the last record of ours in the progress topic; what the set points to
 * stays.
 *
 * With DEMAND_TOPIC, creates the topic unless it exists, waits until it is as
 * it must be, and never returns LAST_RECORD_NEWER.  With less, a topic that is
 * not there, or that we may not use, has no records.
 */
LastRecord
last_record_read(Relay *relay, RecordDemand demand, PublishedSet *set)
{
	ProgressTopic *topic = open_topic(relay);
	bool		strict = demand >= DEMAND_TOPIC;
	Search		search = {0};
	int			delay_ms = FIRST_BACKOFF_MS;

	while (wait_for_topic(relay, topic, demand))
	{
		ReadStatus	status = search_record(relay, topic, demand, &search);

		if (status == READ_END && !(strict && search.found == LAST_RECORD_NEWER))
			break;
		if (status == READ_REFUSED && !strict)
			break;
		if (status == READ_END)
			report_newer(relay, &search.set);
		else
			relay_obstacle(relay, status == READ_REFUSED ?
						   RELAY_WAITING_CONFIGURATION : RELAY_WAITING_KAFKA,
						   progress_topic_error(topic));
		sender_back_off(relay, &delay_ms);
	}
	if (strict)
	{
		report_doubt(progress_topic_error(topic));
		relay->exact->record_offset = progress_topic_end(topic) - 1;
		relay->exact->topic_max_bytes = progress_topic_max_bytes(topic);
		relay->connected = true;
		relay_work(relay);
	}
	progress_topic_close(topic);
	*set = search.set;
	return search.found;
}
