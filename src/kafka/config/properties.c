/*-------------------------------------------------------------------------
 *
 * properties.c
 *	  What outbox thinks of librdkafka's configuration properties.
 *
 * Any property of librdkafka is an option of a server of outbox_kafka, save
 * those that would break what outbox promises, run code inside the server or
 * take something away from outbox that it needs itself.  librdkafka checks
 * names and values; the table here holds what it cannot know.
 *
 * Newer releases of librdkafka add properties.  So what must not slip through
 * is described by patterns where the library's naming allows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/config/properties.h"

#include <stdio.h>
#include <stdlib.h>

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include <librdkafka/rdkafka.h>

/* How far a misspelt name may be from the name that was meant. */
#define NEAR_DISTANCE 4
#define NEAR_NAMES 3

static const PropertyRule rules[] = {
	/* Each event once, in order, and for good */
	{"enable.idempotence", "true",
	"Without idempotence a retry could duplicate events or change their order."},
	{"enable.gapless.guarantee", "true",
	"Without it, events could overtake one of the same key that the broker refused."},
	{"acks", "all, -1",
	"An event counts as published only when all in-sync replicas have it."},
	{"request.required.acks", "all, -1",
	"An event counts as published only when all in-sync replicas have it."},
	{"message.timeout.ms", "0",
	"Outbox never gives an event up because a clock ran out."},
	{"delivery.timeout.ms", "0",
	"Outbox never gives an event up because a clock ran out."},
	{"retries", "!0",
	"Without retries, every lost connection would break the pipeline."},
	{"message.send.max.retries", "!0",
	"Without retries, every lost connection would break the pipeline."},
	{"max.in.flight", "1",
	"A request that failed could count as delivered because the one after it was."},
	{"max.in.flight.requests.per.connection", "1",
	"A request that failed could count as delivered because the one after it was."},
	{"queuing.strategy", "fifo",
	"Events of one key must be sent in order."},
	{"queue.buffering.backpressure.threshold", "1",
	"An idempotent producer needs the default."},
	{"enable.auto.commit", "false",
	"The position of a subscription moves in the database, with the effects of its messages."},
	{"auto.commit.enable", "false",
	"The position of a subscription moves in the database, with the effects of its messages."},
	{"enable.auto.offset.store", "false",
	"The position of a subscription moves in the database, with the effects of its messages."},
	{"auto.offset.reset", "error",
	"Messages that Kafka has removed before they were read must not be passed over in silence."},
	{"group.id", NULL,
	"Every subscription has a group of its own: see inbox.subscribe()."},
	{"group.instance.id", NULL,
	"Consumers join no group."},
	{"group.protocol", "classic",
	"Consumers join no group."},
	{"group.protocol.type", "consumer",
	"librdkafka has no such protocol."},
	{"partition.assignment.strategy", NULL,
	"Consumers join no group."},
	{"isolation.level", NULL,
	"It is a choice of the subscription: see inbox.subscribe()."},
	{"transactional.id", NULL,
	"It would open Kafka transactions that nobody commits."},

	/* Ways to run code with the rights of the server */
	{"plugin.library.paths", NULL,
	"It would load code into the database server."},
	{"ssl.engine.*", NULL,
	"It would load code into the database server."},
	{"ssl.providers", NULL,
	"It would load code into the database server."},
	{"sasl.kerberos.kinit.cmd", NULL,
	"It would run a command with the rights of the database server."},
	{"offset.store.*", NULL,
	"It would write files with the rights of the database server."},
	{"internal.termination.signal", NULL,
	"It would send signals to threads of the database server."},

	/* Pointers, which text cannot give, and doors for librdkafka's tests */
	{"*_cb", NULL, "Only a program can set it, not a text."},
	{"*opaque", NULL, "Only a program can set it, not a text."},
	{"ssl_*", NULL, "Only a program can set it, not a text."},
	{"default_topic_conf", NULL, "Only a program can set it, not a text."},
	{"msg_order_cmp", NULL, "Only a program can set it, not a text."},
	{"interceptors", NULL, "Only a program can set it, not a text."},
	{"ut_*", NULL, "It is for tests of librdkafka."},
	{"test.*", NULL, "It is for tests of librdkafka."},

	/* How outbox itself uses the library */
	{"delivery.report.only.error", "false",
	"Outbox must hear of every event that the broker acknowledged."},
	{"log.queue", "true",
	"Outbox writes librdkafka's messages to the server log itself."},
	{"statistics.interval.ms", NULL,
	"Outbox sets it, and shows the statistics in outbox.stat_relay."},
	{"enable_sasl_queue", NULL,
	"Outbox lets librdkafka refresh its tokens itself."},
	{"enabled_events", NULL,
	"Outbox chooses the events that it serves."},

	/* What an old library does not survive */
	{"enable.sasl.oauthbearer.unsecure.jwt", "false",
		"Releases of librdkafka before 2.2 crash when such a token is to be renewed.",
	0x02020000},

	/* A value that librdkafka would check only later */
	{"sasl.mechanism", "GSSAPI, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER",
	"librdkafka has no such SASL mechanism."},
	{"sasl.mechanisms", "GSSAPI, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER",
	"librdkafka has no such SASL mechanism."},
};

static const char *const secrets[] = {
	"*.password", "*.passphrase", "*.secret", "*.key.pem",
	"sasl.oauthbearer.config"
};

/* What may stand in a user mapping. */
static const char *const security[] = {
	"ssl.*", "sasl.*", "https.*", "security.protocol", "enable.ssl.*",
	"enable.sasl.*"
};

/* Read with the rights of the server.  Directories count. */
static const char *const files[] = {
	"*.location", "*.file", "*.keytab"
};

/* Which way of SASL is used, under either of its names. */
static const char *const mechanisms[] = {
	"sasl.mechanism", "sasl.mechanisms"
};

/* Has the server ask others than brokers, or show who the machine is. */
static const char *const outward[] = {
	"*.url", "sasl.oauthbearer.metadata.*"
};

/* librdkafka puts these, unquoted, into a command that it gives to a shell. */
static const char *const shell_words[] = {
	"sasl.kerberos.principal", "sasl.kerberos.keytab",
	"sasl.kerberos.service.name"
};

/* Does the name match a pattern with "*" at its start, at its end, or none? */
static bool
matches(const char *name, const char *pattern)
{
	size_t		name_len = strlen(name);
	size_t		len = strlen(pattern);

	if (pattern[0] == '*')
		return name_len >= len - 1 &&
			strcmp(name + name_len - (len - 1), pattern + 1) == 0;
	if (pattern[len - 1] == '*')
		return strncmp(name, pattern, len - 1) == 0;
	return strcmp(name, pattern) == 0;
}

static bool
matches_any(const char *name, const char *const *patterns, int npatterns)
{
	for (int i = 0; i < npatterns; i++)
		if (matches(name, patterns[i]))
			return true;
	return false;
}

/*
 * Returns the rule about a property, or NULL when it may be set freely.
 */
const PropertyRule *
property_rule(const char *name)
{
	for (int i = 0; i < lengthof(rules); i++)
		if (matches(name, rules[i].pattern) &&
			(rules[i].until == 0 || rd_kafka_version() < rules[i].until))
			return &rules[i];
	return NULL;
}

/*
 * May the property of this rule have this value, given as librdkafka prints
 * it?
 */
bool
property_rule_allows(const PropertyRule *rule, const char *value)
{
	const char *p = rule->values;
	size_t		len = strlen(value);

	if (p == NULL)
		return false;
	if (p[0] == '!')
		return strcmp(p + 1, value) != 0;
	for (;;)
	{
		size_t		n = strcspn(p, ",");

		if (n == len && memcmp(p, value, len) == 0)
			return true;
		if (p[n] == '\0')
			return false;
		p += n + strlen(", ");
	}
}

/*
 * Is its value a secret?  Secrets belong into a user mapping, whose options
 * other users cannot see, and are never printed.
 */
bool
property_is_secret(const char *name)
{
	return matches_any(name, secrets, lengthof(secrets));
}

/*
 * Is it about who we are and how the connection is secured?  Only such
 * properties may stand in a user mapping.
 */
bool
property_is_security(const char *name)
{
	return matches_any(name, security, lengthof(security));
}

/*
 * Is its value the name of a file or directory that the server would read?
 */
bool
property_names_file(const char *name)
{
	return matches_any(name, files, lengthof(files));
}

/*
 * Does it choose the SASL mechanism?
 */
bool
property_is_mechanism(const char *name)
{
	return matches_any(name, mechanisms, lengthof(mechanisms));
}

/*
 * Does it have the server send requests to others than Kafka's brokers, or use
 * the identity of the machine that it runs on?
 */
bool
property_reaches_out(const char *name)
{
	return matches_any(name, outward, lengthof(outward));
}

/*
 * Does its value become part of a shell command?
 */
bool
property_feeds_shell(const char *name)
{
	return matches_any(name, shell_words, lengthof(shell_words));
}

/*
 * Is it the list of brokers to start with, under either of its names?
 */
bool
property_is_broker_list(const char *name)
{
	return strcmp(name, "bootstrap.servers") == 0 ||
		strcmp(name, "metadata.broker.list") == 0;
}

/*
 * Does it begin with the "topic." that librdkafka tolerates in front of some
 * names?  A second name for everything would slip past the rules.
 */
bool
property_is_prefixed(const char *name)
{
	return strncmp(name, "topic.", 6) == 0 &&
		strncmp(name, "topic.metadata.", 15) != 0 &&
		strcmp(name, "topic.blacklist") != 0;
}

/*
 * Returns librdkafka's own table of its properties: lines with columns that
 * are separated by bars, the name first and the valid values third.  It has
 * aliases, which a dump of a configuration has not.
 */
static char *
library_table(void)
{
	char	   *buffer = NULL;
	size_t		size = 0;
	char	   *table;
	FILE	   *stream = open_memstream(&buffer, &size);

	if (stream == NULL)
		return pstrdup("");
	rd_kafka_conf_properties_show(stream);
	fclose(stream);
	table = pstrdup(buffer);
	free(buffer);
	return table;
}

/*
 * Cuts the next column off a line and trims it.
 */
static char *
next_column(char **line)
{
	char	   *column = strsep(line, "|");
	char	   *end;

	if (column == NULL)
		return "";
	column += strspn(column, " ");
	end = column + strlen(column);
	while (end > column && end[-1] == ' ')
		*--end = '\0';
	return column;
}

/*
 * Returns what librdkafka documents as the valid values of a property, or
 * NULL when it does not say.
 */
char *
property_valid_values(const char *name)
{
	char	   *table = library_table();
	char	   *line;

	while ((line = strsep(&table, "\n")) != NULL)
	{
		if (strcmp(next_column(&line), name) == 0)
		{
			char	   *values;

			(void) next_column(&line);	/* consumer or producer */
			values = next_column(&line);
			return values[0] != '\0' ? values : NULL;
		}
	}
	return NULL;
}

/* How many edits lie between two names; limit + 1 when there are more. */
static int
distance(const char *a, const char *b, int limit)
{
	size_t		a_len = strlen(a);
	size_t		b_len = strlen(b);

	/* longer ones are too much for the function below */
	if (a_len > 255 || b_len > 255)
		return limit + 1;
	return varstr_levenshtein_less_equal(a, a_len, b, b_len, 1, 1, 1, limit,
										 true);
}

/*
 * Returns the names nearest to one that does not exist, quoted and separated
 * by commas; NULL when none is near.  Names that may not be set are left out.
 */
char *
property_nearest_names(const char *name)
{
	char	   *table = library_table();
	int			count = 0;
	int			best;
	StringInfoData names;
	char	   *line;

	if (property_is_prefixed(name))
		name += strlen("topic.");
	best = Min(NEAR_DISTANCE, (int) strlen(name) / 2);
	initStringInfo(&names);
	while ((line = strsep(&table, "\n")) != NULL)
	{
		char	   *candidate = next_column(&line);
		const PropertyRule *rule = property_rule(candidate);
		int			d = distance(name, candidate, best);

		/* some properties are listed twice: see whether we have it */
		if (d > best || (rule != NULL && rule->values == NULL) ||
			(d == best && count > 0 && strstr(names.data, candidate) != NULL))
			continue;
		if (d < best)
		{
			resetStringInfo(&names);
			count = 0;
			best = d;
		}
		if (count++ < NEAR_NAMES)
			appendStringInfo(&names, "%s\"%s\"", count > 1 ? ", " : "",
							 candidate);
	}
	return names.len > 0 ? names.data : NULL;
}
