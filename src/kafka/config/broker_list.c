/*-------------------------------------------------------------------------
 *
 * broker_list.c
 *	  Lists of brokers.
 *
 * librdkafka leaves out an address that it does not understand, and all behind
 * it, and says so in a message of its log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/config/broker_list.h"

#include <stdlib.h>

#include "commands/defrem.h"

#include "kafka/config/config.h"
#include "kafka/config/properties.h"

#define MAX_PORT 65535

#define HOST_CHARACTERS "abcdefghijklmnopqrstuvwxyz" \
	"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* As property "security.protocol" has them. */
static const char *const protocols[] = {
	"plaintext", "ssl", "sasl_plaintext", "sasl_ssl"
};

/*
 * The next address of a list, without blanks around it; NULL when there is
 * none.  Changes the list.
 */
static char *
next_broker(char **list)
{
	char	   *broker = strsep(list, ",");
	size_t		len;

	if (broker == NULL)
		return NULL;
	broker += strspn(broker, " ");
	len = strlen(broker);
	while (len > 0 && broker[len - 1] == ' ')
		broker[--len] = '\0';
	return broker;
}

/* The protocol in front of an address, in small letters; NULL when none. */
static char *
protocol_of(const char *broker)
{
	const char *end = strstr(broker, "://");
	char	   *protocol;

	if (end == NULL)
		return NULL;
	protocol = pnstrdup(broker, end - broker);
	for (char *p = protocol; *p; p++)
		*p = pg_ascii_tolower((unsigned char) *p);
	return protocol;
}

static bool
is_protocol(const char *name)
{
	for (int i = 0; i < lengthof(protocols); i++)
		if (strcmp(name, protocols[i]) == 0)
			return true;
	return false;
}

/* Is it the port of a broker? */
static bool
is_port(const char *text)
{
	size_t		len = strlen(text);

	return len >= 1 && len <= 5 && strspn(text, "0123456789") == len &&
		atoi(text) >= 1 && atoi(text) <= MAX_PORT;
}

/*
 * Is it the address of a broker: a host or "[IPv6 address]", perhaps with
 * "protocol://" in front and ":port" behind?
 */
static bool
is_broker(const char *text)
{
	const char *protocol = strstr(text, "://");
	const char *host = protocol ? protocol + 3 : text;
	size_t		len;

	if (host[0] == '[')
	{
		len = strspn(host + 1, HOST_CHARACTERS ":%");
		if (len == 0 || host[len + 1] != ']')
			return false;
		len += 2;
	}
	else
		len = strspn(host, HOST_CHARACTERS);
	if (len == 0)
		return false;
	return host[len] == '\0' || (host[len] == ':' && is_port(host + len + 1));
}

/*
 * Raises an error unless the value of an option is a list of brokers.
 */
void
broker_list_check(const char *name, const char *value)
{
	char	   *rest = pstrdup(value);
	char	   *broker;

	while ((broker = next_broker(&rest)) != NULL)
	{
		char	   *protocol = protocol_of(broker);

		if (protocol && !is_protocol(protocol))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
					 errdetail("Kafka has no protocol \"%s\".", protocol),
					 errhint("Write host:port, several of them separated by commas, and set \"security.protocol\" where brokers want TLS or SASL.")));
		if (!is_broker(broker))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", name, value),
					 errdetail("\"%s\" is not the address of a Kafka broker.",
							   broker),
					 errhint("Write host:port, several of them separated by commas.")));
	}
}

/*
 * Is there an address with another protocol in front than the configuration's?
 * Then says so in error (PRODUCER_ERROR_LEN bytes).
 */
bool
broker_list_disagree(const KafkaConfig *config, const char *security_protocol,
					 char *error)
{
	ListCell   *lc;

	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);
		char	   *rest;
		char	   *broker;

		if (!property_is_broker_list(option->defname))
			continue;
		rest = pstrdup(strVal(option->arg));
		while ((broker = next_broker(&rest)) != NULL)
		{
			char	   *protocol = protocol_of(broker);

			if (protocol == NULL || strcmp(protocol, security_protocol) == 0)
				continue;
			snprintf(error, PRODUCER_ERROR_LEN,
					 "\"%s\" does not go with option \"security.protocol\", which is %s; leave the protocol out of the address, and set the option",
					 broker, security_protocol);
			return true;
		}
	}
	return false;
}
