/*-------------------------------------------------------------------------
 *
 * property_defaults.c
 *	  Defaults of ours that follow what the administrator chose.
 *
 * The library has rules about several properties together, and refuses a
 * handle when they are broken.  Its own defaults give way; what we set counts
 * as chosen.  So ours give way here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/property_defaults.h"

#include <limits.h>

#include <librdkafka/rdkafka.h>

#include "kafka/client/property_value.h"
#include "kafka/config/config.h"

/* A connection that waits for an answer counts as idle in the library. */
#define LEAST_IDLE_MS 1000

/* What an answer to a fetch holds beside messages, as the library has it. */
#define FETCH_OVERHEAD 512

/*
 * Brings a default of ours between two limits.  When they contradict each
 * other the administrator's choices do, which is for the library to tell.
 */
static void
keep_between(rd_kafka_conf_t *conf, const KafkaConfig *config,
			 const char *name, int64 least, int64 most)
{
	int64		present = client_number(conf, name);
	int64		wanted = Max(Min(present, most), least);
	char		value[32];

	if (wanted == present || kafka_config_has(config, name))
		return;
	snprintf(value, sizeof(value), INT64_FORMAT, Min(wanted, INT_MAX));
	(void) rd_kafka_conf_set(conf, name, value, NULL, 0);
}

/* What is the same for all handles. */
static void
adjust_all(rd_kafka_conf_t *conf, const KafkaConfig *config)
{
	keep_between(conf, config, "reconnect.backoff.max.ms",
				 client_number(conf, "reconnect.backoff.ms"), INT_MAX);
}

/*
 * Makes the defaults of a producer fit.  Its queue has room for two of the
 * largest messages: one that is under way and one that waits.  Batches are no
 * larger than topics take, as far as that is known.
 */
void
property_defaults_producer(rd_kafka_conf_t *conf, const KafkaConfig *config)
{
	char		bytes[32];

	adjust_all(conf, config);
	if (config->batch_bytes > 0 &&
		config->batch_bytes < client_number(conf, "batch.size"))
	{
		snprintf(bytes, sizeof(bytes), "%d", config->batch_bytes);
		(void) rd_kafka_conf_set(conf, "batch.size", bytes, NULL, 0);
	}
	keep_between(conf, config, "queue.buffering.max.kbytes",
				 2 * (client_number(conf, "message.max.bytes") / 1024 + 1), INT_MAX);
	if (config->transactional_id)
		keep_between(conf, config, "socket.timeout.ms", 0,
					 client_number(conf, "transaction.timeout.ms"));
}

/*
 * Makes the defaults of a consumer fit.  The library expects to be able to
 * fetch the largest message that it could produce.
 */
void
property_defaults_consumer(rd_kafka_conf_t *conf, const KafkaConfig *config)
{
	int64		most = INT_MAX;

	adjust_all(conf, config);
	if (kafka_config_has(config, "receive.message.max.bytes"))
		most = client_number(conf, "receive.message.max.bytes") - FETCH_OVERHEAD;
	keep_between(conf, config, "fetch.max.bytes",
				 client_number(conf, "message.max.bytes"), most);
}

/*
 * Do the properties of a producer go together as far as the library does not
 * know?  A queue that cannot hold the largest message could be waited for for
 * ever, and a connection that is closed too early brings no answers; exactly-once
 * delivery needs its records, and within a transaction its messages must be sent.
 * Says what is wrong as the library does.
 */
bool
property_defaults_check_producer(const rd_kafka_conf_t *conf, const KafkaConfig *config,
								 char *error)
{
	double		largest = client_number(conf, "message.max.bytes");
	double		idle = client_number(conf, "connections.max.idle.ms");
	const char *rule;

	if (client_number(conf, "queue.buffering.max.kbytes") * 1024 < largest)
		rule = "`queue.buffering.max.kbytes` must be >= `message.max.bytes` / 1024";
	else if (idle > 0 && idle < LEAST_IDLE_MS)
		rule = "`connections.max.idle.ms` must be 0 or >= " CppAsString2(LEAST_IDLE_MS) ", or connections are closed while answers are under way";
	else if (config->transactional_id == NULL)
		return true;
	else if (largest < PROGRESS_RECORD_BYTES)
		rule = "`message.max.bytes` must be >= " CppAsString2(PROGRESS_RECORD_BYTES);
	else if (client_number(conf, "linger.ms") >=
			 client_number(conf, "transaction.timeout.ms"))
		rule = "`linger.ms` must be < `transaction.timeout.ms`";
	else
		return true;
	strlcpy(error, rule, PRODUCER_ERROR_LEN);
	return false;
}
