/*-------------------------------------------------------------------------
 *
 * error_hints.c
 *	  What to do about an error, where librdkafka does not say it, or says what
 *	  leads astray.
 *
 * All of this is about settings that are fine each by itself: whether they fit
 * the world, or a user mapping, shows only when they are used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/error_hints.h"

#include <unistd.h>

#include "commands/defrem.h"

#include "kafka/client/property_value.h"
#include "kafka/config/config.h"
#include "kafka/config/properties.h"

/* An error is known by a part of it; the property's value comes behind. */
static const struct
{
	const char *part;
	const char *explanation;
	const char *property;
	bool		added;			/* to the error; else in place of it */
}			explanations[] =

{
	{"Invalid response size", "what answers there does not speak Kafka's protocol; is it the port of a broker?",
	"security.protocol", false},
	{"connecting to a SSL listener", "the broker closes the connection; perhaps the port speaks TLS, or wants authentication, or is no Kafka port",
	"security.protocol", false},
	{"connecting to a PLAINTEXT broker listener", "what answers there speaks no TLS, or is no Kafka port",
	"security.protocol", false},
	{"wrong version number", "what answers there speaks no TLS, or is no Kafka port",
	"security.protocol", false},
	{"unexpected eof while reading", "the connection breaks off; perhaps the broker was stopped, or the port speaks no TLS",
	"security.protocol", false},
	{"ApiVersionRequest failed: Local: Timed out", "there is a connection, but nobody answers: a broker that is stopped or overloaded, or no Kafka port",
	NULL, false},
	{"Cluster authorization failed", "the principal needs the right IdempotentWrite on the cluster, or, since Kafka 2.8, Write on some topic",
	NULL, true},
};

/*
 * Does a text say no more than that the other end has closed the connection
 * when it was first spoken to?  Newer releases than 2.13 do, if it is quick.
 */
static bool
is_closed_at_once(const char *text)
{
	return strstr(text, "Disconnected: connection closed") != NULL &&
		strstr(text, "in state APIVERSION_QUERY") != NULL;
}

/* Replaces an error by its explanation, but for the broker in front. */
static void
replace(char *error, const char *explanation)
{
	const char *rest = strstr(error, ": ");
	size_t		len = rest ? rest + 2 - error : 0;

	strlcpy(error + len, explanation, PRODUCER_ERROR_LEN - len);
}

/*
 * Says about an error of a connection (PRODUCER_ERROR_LEN bytes) what it means,
 * if it is one that does not say so itself.  Returns whether it is.  "Text" is
 * the library's, of which the error is made.
 */
bool
error_hints_connection(const rd_kafka_t *handle, const char *text, char *error)
{
	const rd_kafka_conf_t *conf = rd_kafka_conf(unconstify(rd_kafka_t *, handle));
	char		value[VALUE_LEN];

	/* Older ones give the hint themselves. */
	if (is_closed_at_once(text))
		text = "connecting to a SSL listener";

	for (int i = 0; i < lengthof(explanations); i++)
	{
		const char *property = explanations[i].property;
		size_t		len;

		if (strstr(text, explanations[i].part) == NULL)
			continue;
		if (explanations[i].added)
			strlcat(error, "; ", PRODUCER_ERROR_LEN);
		else
			replace(error, "");
		strlcat(error, explanations[i].explanation, PRODUCER_ERROR_LEN);
		len = strlen(error);
		if (property)
		{
			client_property(conf, property, value);
			snprintf(error + len, PRODUCER_ERROR_LEN - len,
					 " (\"%s\" is %s)", property, value);
		}
		return true;
	}
	return false;
}

/* Is there a file that cannot be read?  Then says so. */
static bool
explain_file(const KafkaConfig *config, char *error)
{
	ListCell   *lc;

	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		const char *path = strVal(option->arg);

		/* These need not name a file. */
		if (!property_names_file(option->defname) || strcmp(path, "probe") == 0 ||
			access(path, R_OK) == 0)
			continue;
		snprintf(error, PRODUCER_ERROR_LEN,
				 "cannot read \"%s\", which option \"%s\" names: %s", path,
				 option->defname, strerror(errno));
		return true;
	}
	return false;
}

/*
 * Says about a configuration that the library refused (error has
 * PRODUCER_ERROR_LEN bytes) what is wrong with it, if the library does not.
 */
void
error_hints_refusal(const KafkaConfig *config, char *error)
{
	if (explain_file(config, error))
		return;
	if (strstr(error, "sasl.username and sasl.password must be set"))
		strlcpy(error, "\"sasl.username\" and \"sasl.password\" are missing; CREATE USER MAPPING FOR the owner of the server, SERVER ... OPTIONS (\"sasl.username\" '...', \"sasl.password\" '...')",
				PRODUCER_ERROR_LEN);
}
