/*-------------------------------------------------------------------------
 *
 * transactional_id.c
 *	  The name under which a relay's Kafka transactions run.
 *
 * Kafka lets one producer at a time use it, and fences the one before, whose
 * open transaction it ends.  But it ends a transaction only when all of its
 * partitions have a leader.  As long as one has none, which may be for ever,
 * nobody can use the name, and a partition would hold up all others.
 *
 * So there is a name for each generation: the next one is taken when that of
 * the last record is occupied.  Whether that transaction was committed the
 * progress topic says, since a record whose transaction is not decided hides
 * the end of the topic, which is waited for.  Generations never go back: relays
 * that come later begin with the one of the last record, and so fence whoever
 * uses it.  Who still used an older name would find our records between its own
 * (relay_takeover.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/transactional_id.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "core/monotonic_clock.h"
#include "kafka/config/config.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_transaction.h"
#include "registry/relay_values.h"
#include "relay/delivery/exactly_once_stall.h"
#include "relay/delivery/exactly_once_state.h"
#include "relay/delivery/sender.h"
#include "relay/process/relay_report.h"
#include "relay/process/relay_wait.h"
#include "relay/state/relay.h"

#define RETRY_MS 500
/* In which Kafka ends a transaction, where nothing keeps it from that. */
#define INIT_TIMEOUT_MS 2500

/*
 * The name of a generation, 0 for the first, in the memory of the settings.
 */
const char *
transactional_id_name(const KafkaConfig *config, int generation)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext((void *) config));
	const char *name = psprintf("outbox." UINT64_FORMAT ".%u",
								GetSystemIdentifier(), MyDatabaseId);

	if (generation > 0)
		name = psprintf("%s.%d", name, generation);
	MemoryContextSwitchTo(old);
	return name;
}

/*
 * Has the producer use the name of a generation.
 */
void
transactional_id_use(Relay *relay, int generation)
{
	if (relay->exact->set.generation == generation)
		return;
	relay->exact->set.generation = generation;
	relay->config->transactional_id = transactional_id_name(relay->config, generation);
	sender_close(relay);
	sender_open_patiently(relay);
}

/*
 * Shows why we wait, with what is wrong with the connection if no broker has
 * answered yet.
 */
static void
wait_for_kafka(Relay *relay, const char *reason)
{
	const ProducerStats *stats = producer_stats(relay->producer);
	char		words[RELAY_ERROR_LEN];

	strlcpy(words, reason, sizeof(words));
	if (!relay->connected && stats->nerrors > relay->errors_past)
		snprintf(words, sizeof(words), "%s (%s)", reason, stats->error);
	relay_obstacle(relay, RELAY_WAITING_KAFKA, words);
	relay_wait(relay, RETRY_MS);
	sender_poll(relay);
}

/*
 * Kafka does not let us begin as we are set up.  Waits for other settings, but
 * tries again, since a broker's may be changed as well.
 */
static void
wait_for_permission(Relay *relay, int *delay)
{
	char		reason[RELAY_ERROR_LEN];

	snprintf(reason, sizeof(reason), "could not begin with Kafka transactions: %s"
			 " (transaction.timeout.ms of the server \"kafka\" must not be above the brokers' transaction.max.timeout.ms, and the relay needs the right to write under transactional.id \"%s\")",
			 producer_error(relay->producer), relay->config->transactional_id);
	relay_obstacle(relay, RELAY_WAITING_CONFIGURATION, reason);
	sender_back_off(relay, delay);
	sender_replace(relay);
}

/* The name is occupied: goes on with the next one. */
static void
take_next(Relay *relay)
{
	int			generation = relay->exact->set.generation;

	ereport(LOG,
			(errmsg("outbox relay goes on with another transactional.id: Kafka does not end the last transaction of \"%s\"",
					relay->config->transactional_id),
			 errdetail("A partition that is in it has no leader, or Kafka is slow.")));
	transactional_id_use(relay, generation + 1);
}

/*
 * The next name is not for us.  Goes back to the one before, whose last
 * transaction has to end then.
 */
static void
go_back(Relay *relay)
{
	ereport(WARNING,
			(errmsg("outbox relay may not use transactional.id \"%s\": %s",
					relay->config->transactional_id,
					producer_error(relay->producer)),
			 errdetail("Kafka does not end the last transaction of the name before it. Until it does, nothing is published."),
			 errhint("Grant the relay the right to write under all transactional ids with the prefix \"%s\".",
					 transactional_id_name(relay->config, 0))));
	transactional_id_use(relay, relay->exact->set.generation - 1);
}

/*
 * Gets to be the only one of our name, or of the next one that is not
 * occupied.
 */
void
transactional_id_take(Relay *relay)
{
	int			first = relay->exact->set.generation;
	bool		may_advance = true;
	int			delay = FIRST_BACKOFF_MS;
	TimestampTz since = monotonic_now();

	for (;;)
	{
		transaction_start(relay->producer, TRANSACTION_INIT, INIT_TIMEOUT_MS);
		switch (exactly_once_wait(relay, since))
		{
			case TRANSACTION_DONE:
				return;
			case TRANSACTION_FENCED:
				exactly_once_start_over(relay);
				break;
			case TRANSACTION_OCCUPIED:
				if (may_advance)
				{
					take_next(relay);
					since = monotonic_now();
				}
				else
					wait_for_kafka(relay, producer_error(relay->producer));
				break;
			case TRANSACTION_RETRY:
				wait_for_kafka(relay, producer_error(relay->producer));
				break;
			default:
				if (relay->exact->set.generation > first)
				{
					go_back(relay);
					may_advance = false;
				}
				else
					wait_for_permission(relay, &delay);
				since = monotonic_now();
				break;
		}
	}
}
