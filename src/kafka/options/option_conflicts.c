/*-------------------------------------------------------------------------
 *
 * option_conflicts.c
 *	  Checks whether the options of a server go together.
 *
 * Whether properties contradict each other the library says only when it is
 * asked for a handle.  It says so first of all; then it looks at the names of
 * strategies to assign partitions, and only after that does it read files and
 * start threads.  So a handle is asked for with a strategy that does not
 * exist: what it complains about is either the combination, or just that.
 *
 * What is about authentication and encryption is left out.  A user mapping may
 * complete it, or change it, and the files that it names may be there only
 * later, after a dump was restored, for instance.  Relays and consumers find
 * out, and wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/options/option_conflicts.h"

#include "commands/defrem.h"
#include "lib/stringinfo.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/client.h"
#include "kafka/client/destroy.h"
#include "kafka/client/property_defaults.h"
#include "kafka/client/property_value.h"
#include "kafka/config/config.h"
#include "kafka/config/properties.h"
#include "kafka/consumer/assigned_consumer.h"
#include "kafka/consumer/progress_topic.h"
#include "kafka/producer/idempotent_producer.h"

#define STRATEGY "partition.assignment.strategy"

static rd_kafka_conf_t *
configure_consumer(const KafkaConfig *config, char *error)
{
	return consumer_configure(config, "outbox", "read_committed", error);
}

/* What is opened with the options, and how to make the configuration of it. */
static const struct
{
	const char *name;
	rd_kafka_type_t type;
	bool		transactional;	/* only for exactly-once delivery */
	rd_kafka_conf_t *(*configure) (const KafkaConfig *config, char *error);
}			kinds[] =

{
	{"producer", RD_KAFKA_PRODUCER, false, producer_configure},
	{"producer for exactly-once delivery", RD_KAFKA_PRODUCER, true, producer_configure},
	{"consumer", RD_KAFKA_CONSUMER, false, configure_consumer},
	{"reader of the progress topic", RD_KAFKA_CONSUMER, false, progress_reader_configure},
};

/*
 * Would the library, or we, refuse such a handle?  Then the reason is in error.
 */
static bool
is_refused(const KafkaConfig *config, rd_kafka_type_t type,
		   const rd_kafka_conf_t *conf, char *error)
{
	rd_kafka_conf_t *copy;
	rd_kafka_t *handle;

	if (type == RD_KAFKA_PRODUCER && !property_defaults_check_producer(conf, config, error))
		return true;
	copy = rd_kafka_conf_dup(conf);
	(void) rd_kafka_conf_set(copy, STRATEGY, "none", NULL, 0);
	rd_kafka_conf_set_log_cb(copy, NULL);
	handle = client_create(type, copy, error);
	if (handle == NULL)
		return strstr(error, STRATEGY) == NULL;
	/* No such release is known. */
	destroy_handle(handle);
	return false;
}

/* The properties that an error of the library names, with their values. */
static char *
describe_named(const KafkaConfig *config, const rd_kafka_conf_t *conf,
			   const char *error)
{
	StringInfoData text;
	char	   *rest = pstrdup(error);
	char	   *name;

	initStringInfo(&text);
	while (strsep(&rest, "`") && (name = strsep(&rest, "`")) != NULL)
	{
		char		value[VALUE_LEN];

		client_property(conf, name, value);
		if (value[0] != '\0')
			appendStringInfo(&text, "%s\"%s\" is %s%s",
							 text.len > 0 ? ", " : "", name, value,
							 kafka_config_has(config, name) ? "" : " by default");
	}
	return text.data;
}

/* Raises an error if a kind of handle would be refused. */
static void
check_kind(const KafkaConfig *config, const char *name, rd_kafka_type_t type,
		   rd_kafka_conf_t *(*configure) (const KafkaConfig *, char *))
{
	char		error[PRODUCER_ERROR_LEN];
	rd_kafka_conf_t *conf = configure(config, error);
	bool		refused = conf == NULL || is_refused(config, type, conf, error);
	char	   *named = "";

	if (refused && conf)
		named = describe_named(config, conf, error);
	if (conf)
		rd_kafka_conf_destroy(conf);
	if (refused)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("the options of the server do not go together"),
				 errdetail("With them there can be no %s: %s.", name, error),
				 named[0] == '\0' ? 0 :
				 errhint("Change what is set, or set what is missing: %s.",
						 named)));
}

/* The options that can be judged without a user mapping. */
static KafkaConfig *
make_config(List *options)
{
	KafkaConfig *config = palloc0(sizeof(KafkaConfig));
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (!property_is_security(option->defname))
			config->options = lappend(config->options, option);
	}
	kafka_config_take_own(config);
	return config;
}

/*
 * Raises an error unless the options of a server, each of which is fine, go
 * together.
 */
void
option_conflicts_check(List *options)
{
	KafkaConfig *config = make_config(options);

	for (int i = 0; i < lengthof(kinds); i++)
	{
		if (kinds[i].transactional && !config->exactly_once)
			continue;
		config->transactional_id = kinds[i].transactional ? "outbox" : NULL;
		check_kind(config, kinds[i].name, kinds[i].type, kinds[i].configure);
	}
}
