/*-------------------------------------------------------------------------
 *
 * consumer_health.c
 *	  Whether messages can be fetched, and what stat_subscription shows of it.
 *
 * The library tells of an error once, and not when it is over: it goes on
 * trying.  So after an error a partition is in doubt until something comes of
 * it: a message, or its end.  The end of a partition without new messages was
 * reported long ago, and would not be again.  So the partition is sought, at its
 * own position: what comes then was fetched after the error.  That throws away
 * what the library has fetched already, so one with messages to come is sought
 * only if none of them comes for a while, or if it has to be checked whether it
 * is still the one that was read (partition_marks.c).  A partition that was
 * just assigned is waited for as well.
 *
 *	 an error names the partition	the subscription waits for it
 *	 an error names none			(a connection is lost) it waits for those of
 *									which nothing comes within PROBE_MS
 *	 topics cannot be looked up		it waits, whatever comes
 *
 * Messages of the other partitions are handled meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/worker/consumer_health.h"

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/batch/handler_backoff.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/partition/assignment.h"
#include "inbox/partition/partition_marks.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/worker_report.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

#define PROBE_MS 2000
#define CHECK_MS 500			/* where nothing is taken until then */
#define LONG_PROBE_MS 10000		/* with messages that are still to be handled */
#define MOST_DOUBLED 5			/* as often that gets twice as long: what
								 * comes may take its time */
#define ASSIGN_MS 30000			/* between two assignments for lack of a sign */
#define GROUP_RETRY_MS 10000
#define TRANSACTION_MS 10000	/* so long an open transaction is no matter */

/*
 * A broker is away, perhaps: any partition may be its.  When it is back, it may
 * not have what it had.
 */
static void
doubt_all(InboxWorker *worker)
{
	TimestampTz now = monotonic_now();

	for (int i = 0; i < worker->npartitions; i++)
		if (worker->partitions[i]->health == PARTITION_READ)
		{
			worker->partitions[i]->health = PARTITION_DOUBTED;
			marks_doubt(worker, worker->partitions[i]);
		}
	worker->settled = false;
	if (worker->doubted_at == 0)
		worker->doubted_at = now;
	worker->refresh_at = Min(worker->refresh_at,
							 TimestampTzPlusMilliseconds(now, PROBE_MS));
}

/* Offsets cannot be shown to Kafka's tools, which is all that is wrong. */
static void
note_group_error(InboxWorker *worker)
{
	char		message[CONSUMER_MESSAGE_LEN];

	snprintf(message, sizeof(message),
			 "cannot report offsets to the consumer group \"%s\", but messages are handled without: %s",
			 worker->subscription->group,
			 consumer_stats(worker->consumer)->group_error);
	if (strcmp(worker->status.error, message) != 0)
		ereport(LOG,
				(errmsg("consumer of subscription \"%s\" %s",
						worker->entry->name, message)));
	/* Once: what messages fail for is shown if it is later. */
	if (strcmp(worker->group_error, message) != 0)
		health_note(worker, message);
	strlcpy(worker->group_error, message, sizeof(worker->group_error));
}

/* Offsets could not be shown: they are to be shown again, not at once. */
static void
take_group_error(InboxWorker *worker)
{
	worker->group_errors_seen = consumer_stats(worker->consumer)->ngroup_errors;
	partitions_forget_shown(worker);
	worker->committed_at = TimestampTzPlusMilliseconds(monotonic_now(),
													   GROUP_RETRY_MS);
	if (worker->status.state == CONSUMER_RUNNING)
		note_group_error(worker);
}

/*
 * Looks at the errors that Kafka's client has reported with the last messages.
 */
void
health_take_errors(InboxWorker *worker)
{
	const ConsumerStats *stats = consumer_stats(worker->consumer);

	if (!stats->group_fails)
		worker->group_error[0] = '\0';
	if (stats->ngroup_errors != worker->group_errors_seen)
		take_group_error(worker);
	if (stats->nerrors == worker->errors_seen)
		return;
	worker->errors_seen = stats->nerrors;
	if (stats->ndoubts != worker->doubts_seen)
		doubt_all(worker);
	worker->doubts_seen = stats->ndoubts;
	/* What a broker has answered about topics says more. */
	if (worker->complete || worker->unreached)
	{
		health_note(worker, stats->error);
		worker->reason_at = monotonic_now();
	}
}

/* Are there messages of it to come, as far as is known? */
static bool
has_more(InboxWorker *worker, const ConsumerPartition *at)
{
	int64		end;

	return consumer_known_end(worker->consumer, at->topic, at->partition, &end) &&
		end > at->offset;
}

/*
 * Is a partition that was assigned, or asked, to be asked once more?  Not before
 * long.  Its first messages may have come, and wait for their turn while there are
 * more of others.
 */
static bool
is_to_ask_again(const Partition *partition, bool more, TimestampTz now)
{
	TimestampTz since = partition->asked_at;

	if (since == 0)
	{
		if (more)
			return false;
		since = partition->assigned_at;
	}
	return TimestampDifferenceExceeds(since, now,
									  LONG_PROBE_MS << Min(partition->in_vain, MOST_DOUBLED));
}

/* Is a partition to be asked now? */
static bool
is_to_ask(const Partition *partition, bool more, TimestampTz now)
{
	if (partition->lost || partition->gone || partition->health == PARTITION_READ)
		return false;
	if (partition->health == PARTITION_ASKED)
		return is_to_ask_again(partition, more, now);
	return TimestampDifferenceExceeds(partition->asked_at, now,
									  partition->check == CHECK_WANTED ?
									  CHECK_MS : PROBE_MS);
}

/*
 * Has the library been asked for a sign of partitions in vain, though all topics
 * are there?  It may have lost a partition whose topic was away for a moment, and
 * then begins with an assignment only.  That throws away what was fetched of all,
 * so it is done now and then.
 */
static bool
is_to_assign(InboxWorker *worker, bool in_vain, TimestampTz now)
{
	if (!in_vain || !worker->complete ||
		!TimestampDifferenceExceeds(worker->assigned_at, now, ASSIGN_MS))
		return false;
	worker->assigned_at = now;
	return true;
}

/* Asks partitions in doubt for a sign, none of them all the time. */
static void
ask(InboxWorker *worker, bool more)
{
	ConsumerPartition *list = palloc(sizeof(ConsumerPartition) *
									 Max(worker->npartitions, 1));
	TimestampTz now = monotonic_now();
	bool		in_vain = false;
	int			n = 0;

	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (!is_to_ask(partition, more, now))
			continue;
		if (partition->health == PARTITION_ASKED)
		{
			partition->in_vain++;
			in_vain = true;
		}
		if (partition->health == PARTITION_ASKED || partition->refused ||
			partition->check == CHECK_WANTED ||
			!has_more(worker, &partition->at))
		{
			list[n] = partition->at;
			list[n++].offset = marks_start(partition);
			marks_started(partition);
		}
		partition->health = PARTITION_ASKED;
		partition->asked_at = now;
	}
	if (is_to_assign(worker, in_vain && !more, now))
		partitions_assign(worker);
	else if (n > 0)
		consumer_seek(worker->consumer, list, n);
	pfree(list);
}

/*
 * What the partitions, and the look for topics, say.  While there is more to
 * handle, the sign of a partition may come late.
 */
static ConsumerState
assess(InboxWorker *worker, bool more)
{
	bool		silent = false;
	bool		refused = false;

	for (int i = 0; i < worker->npartitions && !worker->settled; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (partition->lost)
			return CONSUMER_DATA_LOST;
		if (partition->health == PARTITION_READ || partition->gone)
			continue;
		silent = true;
		refused |= partition->refused;
	}
	worker->settled = !silent;
	if (!worker->looked)
		return worker->status.state;
	if (!worker->complete || refused)
		return CONSUMER_WAITING_KAFKA;
	if (!silent)
		worker->doubted_at = 0;
	if (worker->locked[0] != '\0')
		return CONSUMER_WAITING_LOCK;
	if (handler_backoff_is_backing_off(worker))
		return CONSUMER_BACKING_OFF;
	if (redelivery_queue_is_full(worker))
		return CONSUMER_FULL;
	if (!silent)
		return CONSUMER_RUNNING;
	if (worker->doubted_at != 0 &&
		TimestampDifferenceExceeds(worker->doubted_at, monotonic_now(),
								   more ? LONG_PROBE_MS : PROBE_MS))
		return CONSUMER_WAITING_KAFKA;
	return worker->status.state;
}

/*
 * Is a partition held up by a transaction of a producer?  Then the library has
 * read it to its end, as far as all before is committed or aborted, and there
 * are messages behind.
 */
static bool
is_held(const Partition *partition)
{
	return partition->check == CHECK_DONE && !partition->lost && !partition->gone &&
		partition->end == partition->at.offset &&
		partition->known_end > partition->at.offset;
}

/* Tells of transactions that are open for long.  They are somebody else's. */
static void
tell_transactions(InboxWorker *worker)
{
	TimestampTz now = monotonic_now();
	char		message[CONSUMER_MESSAGE_LEN];

	if (!TimestampDifferenceExceeds(worker->told_at, now, 1000))
		return;
	worker->told_at = now;
	for (int i = 0; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		if (!is_held(partition))
		{
			partition->held_since = 0;
			continue;
		}
		if (partition->held_since == 0)
			partition->held_since = now;
		if (partition->held_since == DT_NOEND ||
			!TimestampDifferenceExceeds(partition->held_since, now, TRANSACTION_MS))
			continue;
		partition->held_since = DT_NOEND;
		snprintf(message, sizeof(message),
				 "messages of partition %d of topic \"%s\" wait for a transaction of a producer, which is open since offset " INT64_FORMAT,
				 partition->at.partition, partition->at.topic, partition->at.offset);
		health_tell(worker, message);
	}
}

/*
 * Shows how it fares.  Call when what was fetched is processed; more says that
 * there may be more of it.
 */
void
health_check(InboxWorker *worker, bool more)
{
	ConsumerState state;

	/* While nothing is fetched, there is no sign of any. */
	if (!worker->settled && !handler_backoff_is_pausing(worker))
		ask(worker, more);
	tell_transactions(worker);
	state = assess(worker, more);
	if (state == CONSUMER_WAITING_KAFKA)
	{
		/* It may get well before the next look for topics. */
		worker->refresh_at = Min(worker->refresh_at,
								 TimestampTzPlusMilliseconds(monotonic_now(), PROBE_MS));
		if (worker->status.state != state)
			health_problem(worker, state, worker->status.error);
	}
	else if (state == CONSUMER_WAITING_LOCK && worker->locked[0] != '\0')
	{
		if (worker->status.state != state)
			health_problem(worker, state, worker->locked);
	}
	else if (state == CONSUMER_FULL && worker->status.state != state)
		health_problem(worker, state, psprintf("%d keys wait for a message to be tried again; nothing more is read until fewer do",
											   WAITING_LIMIT));
	else if (worker->status.state != state)
	{
		if (consumer_stats(worker->consumer)->group_fails)
			note_group_error(worker);
		health_set_state(worker, state);
	}
}
