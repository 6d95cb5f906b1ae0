/*-------------------------------------------------------------------------
 *
 * options.c
 *	  Checks the options of foreign servers and user mappings.
 *
 * librdkafka itself knows which properties exist and what they may be, so a
 * typo fails when it is made.  On top of that a table here names the
 * properties that are ours, because they would break what we promise, or that
 * would let a user of SQL reach into the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "access/reloptions.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "kafka/config.h"

#define MAX_HINTS 3
#define MAX_DISTANCE 5			/* between a typo and what was meant */
#define REASON_LEN 512

PG_FUNCTION_INFO_V1(outbox_kafka_validator);

/* A property that is not the administrator's to set freely. */
typedef struct Restriction
{
	const char *name;
	const char *allowed;		/* values that are fine, separated by blanks;
								 * NULL for none */
	const char *reason;
}			Restriction;

#define ORDER_REASON "The relay promises that nothing is lost and that events of one key keep their order."
#define OURS_REASON "The relay sets this property itself."
#define CODE_REASON "The property would run code of its own in the database server."

static const Restriction restrictions[] = {
	{"enable.idempotence", "true", ORDER_REASON},
	{"enable.gapless.guarantee", "true", ORDER_REASON},
	{"acks", "all -1", ORDER_REASON},
	{"request.required.acks", "all -1", ORDER_REASON},
	{"queuing.strategy", "fifo", ORDER_REASON},
	{"max.in.flight", "1 2 3 4 5", ORDER_REASON},
	{"max.in.flight.requests.per.connection", "1 2 3 4 5", ORDER_REASON},
	{"retries", NULL, "An event is retried until Kafka has it; a limit would lose it."},
	{"message.send.max.retries", NULL, "An event is retried until Kafka has it; a limit would lose it."},
	{"message.timeout.ms", NULL, "An event waits until Kafka has it; a time limit would lose it."},
	{"delivery.timeout.ms", NULL, "An event waits until Kafka has it; a time limit would lose it."},
	{"transactional.id", NULL, OURS_REASON},
	{"delivery.report.only.error", NULL, OURS_REASON},
	{"enabled_events", NULL, OURS_REASON},
	{"log.queue", NULL, OURS_REASON},
	{"log.thread.name", NULL, OURS_REASON},
	{"statistics.interval.ms", NULL, OURS_REASON},
	{"opaque", NULL, OURS_REASON},
	{"default_topic_conf", NULL, OURS_REASON},
	{"interceptors", NULL, CODE_REASON},
	{"plugin.library.paths", NULL, CODE_REASON},
	{"sasl.kerberos.kinit.cmd", NULL, CODE_REASON},
	{"ssl.engine.location", NULL, CODE_REASON},
	{"ssl.engine.id", NULL, CODE_REASON},
};

/* Properties whose values are secrets. */
static const char *const secrets[] = {
	"sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem",
	"ssl_key", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config",
};

/* Properties that name files, read with the server's rights. */
static const char *const files[] = {
	"ssl.key.location", "ssl.certificate.location", "ssl.ca.location",
	"ssl.crl.location", "ssl.keystore.location", "sasl.kerberos.keytab",
	"https.ca.location", "sasl.oauthbearer.assertion.private.key.file",
};

static bool
is_one_of(const char *name, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* Is value one of those in a list separated by blanks? */
static bool
is_allowed(const char *value, const char *allowed)
{
	size_t		len = strlen(value);

	while (allowed)
	{
		const char *end = strchr(allowed, ' ');
		size_t		word = end ? (size_t) (end - allowed) : strlen(allowed);

		if (word == len && pg_strncasecmp(value, allowed, len) == 0)
			return true;
		allowed = end ? end + 1 : NULL;
	}
	return false;
}

/* Refuses what is ours to set. */
static void
check_restrictions(const char *name, const char *value)
{
	size_t		len = strlen(name);

	if (len > 3 && strcmp(name + len - 3, "_cb") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" cannot be set", name),
				 errdetail("The property is a callback in C."),
				 errhint("Leave the option out.")));
	for (int i = 0; i < lengthof(restrictions); i++)
	{
		const		Restriction *r = &restrictions[i];

		if (strcmp(name, r->name) != 0 || is_allowed(value, r->allowed))
			continue;
		if (r->allowed)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" cannot be \"%s\"", name, value),
					 errdetail("%s", r->reason),
					 errhint("Leave the option out, or use one of: %s.",
							 r->allowed)));
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" cannot be set", name),
				 errdetail("%s", r->reason),
				 errhint("Leave the option out.")));
	}
}

/* Secrets belong to user mappings, and user mappings to security. */
static void
check_place(const char *name, Oid catalog)
{
	bool		security = strncmp(name, "sasl.", 5) == 0 ||
	strncmp(name, "ssl", 3) == 0;

	if (catalog == ForeignServerRelationId &&
		is_one_of(name, secrets, lengthof(secrets)))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is a secret and not allowed for a server",
						name),
				 errdetail("Everybody can read the options of a server."),
				 errhint("Use CREATE USER MAPPING FOR the server's owner SERVER ... OPTIONS (...).")));
	if (catalog == UserMappingRelationId && !security)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is not allowed for a user mapping", name),
				 errdetail("A user mapping holds only sasl.* and ssl.* properties."),
				 errhint("Set it with ALTER SERVER ... OPTIONS (...).")));
	if (is_one_of(name, files, lengthof(files)) && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", name),
				 errdetail("The file would be read with the rights of the database server."),
				 errhint("Ask a superuser to set it.")));
}

/* Adds names out of a configuration's dump that are near to the given one. */
static void
add_near_names(const char **dump, size_t n, const char *name,
			   const char **nearest, int *distances)
{
	for (size_t i = 0; i + 1 < n; i += 2)
	{
		int			distance = varstr_levenshtein_less_equal(name, strlen(name),
															 dump[i], strlen(dump[i]),
															 1, 1, 1, MAX_DISTANCE, true);

		for (int slot = 0; slot < MAX_HINTS; slot++)
		{
			if (nearest[slot] && strcmp(nearest[slot], dump[i]) == 0)
				break;			/* some properties are in both dumps */
			if (distance >= distances[slot])
				continue;
			for (int j = MAX_HINTS - 1; j > slot; j--)
			{
				distances[j] = distances[j - 1];
				nearest[j] = nearest[j - 1];
			}
			distances[slot] = distance;
			nearest[slot] = pstrdup(dump[i]);
			break;
		}
	}
}

/* A hint that names the properties nearest to a name that does not exist. */
static char *
name_hint(const char *name)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_topic_conf_t *topic_conf = rd_kafka_topic_conf_new();
	const char *nearest[MAX_HINTS] = {0};
	int			distances[MAX_HINTS];
	const char **dump;
	size_t		n;
	StringInfoData hint;

	for (int i = 0; i < MAX_HINTS; i++)
		distances[i] = MAX_DISTANCE + 1;
	if (strlen(name) < 250)		/* what the distance function can take */
	{
		dump = rd_kafka_conf_dump(conf, &n);
		add_near_names(dump, n, name, nearest, distances);
		rd_kafka_conf_dump_free(dump, n);
		dump = rd_kafka_topic_conf_dump(topic_conf, &n);
		add_near_names(dump, n, name, nearest, distances);
		rd_kafka_conf_dump_free(dump, n);
	}
	rd_kafka_conf_destroy(conf);
	rd_kafka_topic_conf_destroy(topic_conf);

	if (nearest[0] == NULL)
		return "The options are the configuration properties of librdkafka.";
	initStringInfo(&hint);
	appendStringInfo(&hint, "Perhaps you mean \"%s\"", nearest[0]);
	for (int i = 1; i < MAX_HINTS && nearest[i]; i++)
		appendStringInfo(&hint, " or \"%s\"", nearest[i]);
	appendStringInfoChar(&hint, '.');
	return hint.data;
}

/* Asks librdkafka whether the property exists and may have this value. */
static void
check_with_library(const char *name, const char *value)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		reason[REASON_LEN];
	rd_kafka_conf_res_t result;

	result = rd_kafka_conf_set(conf, name, value, reason, sizeof(reason));
	rd_kafka_conf_destroy(conf);
	if (result == RD_KAFKA_CONF_UNKNOWN)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("unknown option \"%s\"", name),
				 errdetail("librdkafka has no such property."),
				 errhint("%s", name_hint(name))));
	if (result == RD_KAFKA_CONF_INVALID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", name),
				 is_one_of(name, secrets, lengthof(secrets)) ?
				 errdetail("The value is a secret and not shown.") :
				 errdetail("%s.", reason),
				 errhint("See the configuration properties of librdkafka.")));
}

/* Is text "host:port", "[address]:port" or a host alone, protocol or not? */
static bool
is_broker_address(const char *text)
{
	const char *host = strstr(text, "://") ? strstr(text, "://") + 3 : text;
	const char *port;

	if (*host == '[')
	{
		port = strchr(host, ']');
		if (port == NULL || port == host + 1)
			return false;
		port++;
	}
	else
		port = host + strcspn(host, ":");
	if (port == host || strpbrk(host, " \t\r\n/") != NULL)
		return false;
	if (*port == '\0')
		return true;
	return *port == ':' && strlen(port + 1) >= 1 && strlen(port + 1) <= 5 &&
		strspn(port + 1, "0123456789") == strlen(port + 1) &&
		atoi(port + 1) >= 1 && atoi(port + 1) <= 65535;
}

static void
check_brokers(const char *name, const char *value)
{
	char	   *broker = pstrdup(value);

	while (broker != NULL)
	{
		char	   *next = strchr(broker, ',');

		if (next)
			*next++ = '\0';
		broker += strspn(broker, " ");
		if (!is_broker_address(broker))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value \"%s\" for option \"%s\"", value, name),
					 errdetail("\"%s\" is not the address of a broker.", broker),
					 errhint("Write host:port, several of them separated by commas.")));
		broker = next;
	}
}

static bool
names_brokers(const char *name)
{
	return strcmp(name, "bootstrap.servers") == 0 ||
		strcmp(name, "metadata.broker.list") == 0;
}

static void
check_option(const char *name, const char *value, Oid catalog)
{
	check_restrictions(name, value);
	check_place(name, catalog);
	check_with_library(name, value);
	if (names_brokers(name))
		check_brokers(name, value);
}

/*
 * SQL function outbox.kafka_validator(text[], oid): raises an error for an
 * option that is unknown, invalid, in the wrong place or not allowed.
 */
Datum
outbox_kafka_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	bool		has_brokers = false;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (catalog != ForeignServerRelationId &&
			catalog != UserMappingRelationId)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("option \"%s\" is not allowed here", option->defname),
					 errdetail("Only servers and user mappings of %s have options.",
							   KAFKA_WRAPPER_NAME),
					 errhint("Use CREATE SERVER kafka FOREIGN DATA WRAPPER %s OPTIONS (...).",
							 KAFKA_WRAPPER_NAME)));
		check_option(option->defname, defGetString(option), catalog);
		has_brokers |= names_brokers(option->defname);
	}
	if (catalog == ForeignServerRelationId && !has_brokers)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"bootstrap.servers\" is missing"),
				 errdetail("Without it nobody knows where Kafka is."),
				 errhint("Add OPTIONS (\"bootstrap.servers\" 'host:port').")));
	PG_RETURN_VOID();
}
