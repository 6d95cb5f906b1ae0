/*-------------------------------------------------------------------------
 *
 * options.c
 *	  Checks the options of foreign servers and user mappings.
 *
 * librdkafka itself says which properties exist and what values they take, so
 * a mistake fails when it is made and not when the relay starts.  For that a
 * scratch configuration is filled in; no Kafka handle is made and no thread
 * is started.  On top of it come the rules of properties.c, which say what an
 * administrator may not set, and where secrets and files may be named, and
 * what option_conflicts.c says about all of them together.
 *
 * No error shows the value of a secret.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdlib.h>

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/property_value.h"
#include "kafka/config/broker_list.h"
#include "kafka/config/config.h"
#include "kafka/config/properties.h"
#include "kafka/options/option_conflicts.h"

#define REASON_LEN 512

/* What may stand unquoted in a shell command without meaning anything. */
#define SHELL_SAFE "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" \
	"0123456789._-/@:"

PG_FUNCTION_INFO_V1(outbox_kafka_validator);

/* The error for a property that must not be set here, or not to this value. */
static void
raise_refused(const char *name, const char *value, const PropertyRule *rule)
{
	if (rule->values == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" cannot be set", name),
				 errdetail("%s", rule->reason),
				 errhint("Leave the option out.")));
	if (rule->values[0] == '!')
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("option \"%s\" cannot be \"%s\"", name, value),
				 errdetail("%s", rule->reason),
				 errhint("Leave the option out, or give another value than %s.",
						 rule->values + 1)));
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("option \"%s\" cannot be \"%s\"", name, value),
			 errdetail("%s", rule->reason),
			 errhint("Leave the option out, or use one of: %s.",
					 rule->values)));
}

/* The error for a property that librdkafka does not know. */
static void
raise_unknown(const char *name)
{
	char	   *names = property_nearest_names(name);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("option \"%s\" does not exist", name),
			 errdetail("librdkafka %s has no such property.",
					   rd_kafka_version_str()),
			 names ? errhint("Perhaps you mean %s.", names) :
			 errhint("Options are the configuration properties of librdkafka.")));
}

/*
 * The error for a value that is not one of the property's.  The reason may
 * quote the value; it is NULL when there is none.
 */
static void
raise_invalid(const char *name, const char *reason)
{
	char	   *values = property_valid_values(name);
	char	   *sentence = NULL;

	if (property_is_secret(name))
		reason = "The value is a secret and not shown";
	if (reason)
	{
		size_t		len = strlen(reason);

		while (len > 0 && (reason[len - 1] == '\n' || reason[len - 1] == '.'))
			len--;
		sentence = pnstrdup(reason, len);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 sentence ? errdetail("%s.", sentence) : 0,
			 values ? errhint("Valid values: %s.", values) :
			 errhint("See the configuration properties of librdkafka.")));
}

/*
 * librdkafka reads "5 minutes" as 5 and cuts big numbers short.  Raises an
 * error when it took a part of the text for a number.
 */
static void
check_number(const char *name, const char *text, const char *understood)
{
	double		number;
	char	   *end;

	if (understood[0] == '\0' || strcmp(text, understood) == 0 ||
		strspn(understood, "-.0123456789") != strlen(understood))
		return;
	number = strtod(text, &end);
	if (end == text)
		return;					/* a name for a number */
	end += strspn(end, " ");
	/* What has a fraction comes back rounded. */
	if (*end != '\0' ||
		(strchr(understood, '.') == NULL && number != atof(understood)))
		raise_invalid(name, psprintf("\"%s\" is not a number that librdkafka can take",
									 text));
}

/* Raises an error for a property in the wrong place. */
static void
check_place(const char *name, Oid catalog)
{
	if (catalog == ForeignServerRelationId && property_is_secret(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is a secret, and not allowed for a server",
						name),
				 errdetail("Every user of the database can see the options of a server."),
				 errhint("Give it to the server's owner: CREATE USER MAPPING FOR ... SERVER ... OPTIONS (...).")));
	if (catalog == UserMappingRelationId && !property_is_security(name))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is not allowed for a user mapping", name),
				 errdetail("A user mapping holds only what is about authentication and encryption."),
				 errhint("Set it for the server: ALTER SERVER ... OPTIONS (...).")));
}

/*
 * Raises an error for the name of a file unless the user may read any file of
 * the server, since the server will.
 */
static void
check_file(const char *name)
{
	if (!property_names_file(name) ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set option \"%s\"", name),
			 errdetail("It names a file that is read with the rights of the database server."),
			 errhint("Only superusers and members of pg_read_server_files may set it.")));
}

/*
 * Raises an error for the mechanism that uses Kerberos unless the user may read
 * any file of the server: its tickets and keytabs are files of the server's,
 * whether or not options name them.
 */
static void
check_mechanism(const char *name, const char *value)
{
	if (!property_is_mechanism(name) || strcmp(value, "GSSAPI") != 0 ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set option \"%s\" to \"%s\"", name, value),
			 errdetail("It uses the Kerberos credentials of the operating system's user that the database server runs as."),
			 errhint("Only superusers and members of pg_read_server_files may do that; others use another mechanism, such as SCRAM-SHA-512.")));
}

/*
 * Raises an error for what sends requests of the server elsewhere than to
 * Kafka, unless the user is a superuser: the server may reach what he cannot,
 * and be somebody there.
 */
static void
check_reach(const char *name)
{
	if (!property_reaches_out(name) || superuser())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set option \"%s\"", name),
			 errdetail("With it the database server sends requests to others than Kafka, or as the machine that it runs on."),
			 errhint("Only superusers may set it.")));
}

/* Raises an error for a value that a shell, or its command, would misread. */
static void
check_shell_word(const char *name, const char *value)
{
	if (!property_feeds_shell(name) ||
		(strspn(value, SHELL_SAFE) == strlen(value) && value[0] != '-'))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail("librdkafka would put it into a shell command, where it would not stand for itself."),
			 errhint("Use letters, digits and \"._-/@:\", and no \"-\" at the beginning.")));
}

/* Options that are ours, not librdkafka's, with two values each. */
static const struct
{
	const char *name;
	const char *values[2];
}			own_options[] =

{
	{DELIVERY_OPTION, {DELIVERY_AT_LEAST_ONCE, DELIVERY_EXACTLY_ONCE}},
	{TIMESTAMP_OPTION, {TIMESTAMP_COMMIT, TIMESTAMP_SEND}},
};

/* Raises an error unless the value is a number of connections. */
static void
check_connections(const char *value)
{
	char	   *end;
	long		number = strtol(value, &end, 10);

	if (end == value || *end != '\0' || number < 1 || number > MAX_CONNECTIONS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"",
						CONNECTIONS_OPTION, value),
				 errhint("Valid values: 1 to %d.", MAX_CONNECTIONS)));
}

/*
 * Is it an option of ours?  Then raises an error unless it may have that value
 * here.
 */
static bool
check_own(Oid catalog, const char *name, const char *value)
{
	if (strcmp(name, CONNECTIONS_OPTION) == 0)
	{
		if (catalog != ForeignServerRelationId)
			check_place(name, catalog);
		check_connections(value);
		return true;
	}
	for (int i = 0; i < lengthof(own_options); i++)
	{
		const char *const *values = own_options[i].values;

		if (strcmp(name, own_options[i].name) != 0)
			continue;
		if (catalog != ForeignServerRelationId)
			check_place(name, catalog);
		if (strcmp(value, values[0]) != 0 && strcmp(value, values[1]) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("invalid value for option \"%s\": \"%s\"", name,
							value),
					 errhint("Valid values: %s, %s.", values[0], values[1])));
		return true;
	}
	return false;
}

/*
 * Checks one option; raises an error when something is wrong with it.
 */
static void
check_option(rd_kafka_conf_t *conf, Oid catalog, const char *name,
			 const char *value)
{
	const PropertyRule *rule = property_rule(name);
	char		reason[REASON_LEN];
	char		understood[VALUE_LEN];
	rd_kafka_conf_res_t result;

	if (check_own(catalog, name, value))
		return;

	/* Some of these act when they are set, so look at the rule first. */
	if (rule && rule->values == NULL)
		raise_refused(name, value, rule);
	result = rd_kafka_conf_set(conf, name, value, reason, sizeof(reason));
	if (result == RD_KAFKA_CONF_UNKNOWN || property_is_prefixed(name))
		raise_unknown(name);
	check_place(name, catalog);
	check_file(name);
	check_reach(name);
	if (result == RD_KAFKA_CONF_INVALID)
		raise_invalid(name, reason);

	client_property(conf, name, understood);
	if (!property_is_secret(name))
		check_number(name, value, understood);
	if (rule && !property_rule_allows(rule, understood))
		raise_refused(name, value, rule);
	check_mechanism(name, understood);
	check_shell_word(name, value);
	if (property_is_broker_list(name))
		broker_list_check(name, value);
}

/* Raises an error for options of anything but servers and user mappings. */
static void
check_catalog(Oid catalog, List *options)
{
	if (catalog == ForeignServerRelationId || catalog == UserMappingRelationId ||
		(catalog == ForeignDataWrapperRelationId && options == NIL))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("only servers and user mappings of %s have options",
					KAFKA_WRAPPER_NAME),
			 errhint("Use CREATE SERVER %s FOREIGN DATA WRAPPER %s OPTIONS (\"bootstrap.servers\" 'host:port').",
					 KAFKA_SERVER_NAME, KAFKA_WRAPPER_NAME)));
}

/* Checks every option; returns whether one of them names brokers. */
static bool
check_options(rd_kafka_conf_t *conf, Oid catalog, List *options)
{
	bool		has_brokers = false;
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		check_option(conf, catalog, option->defname, defGetString(option));
		has_brokers |= property_is_broker_list(option->defname);
	}
	return has_brokers;
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
	rd_kafka_conf_t *volatile conf = NULL;
	volatile bool has_brokers = false;

	check_catalog(catalog, options);
	PG_TRY();
	{
		conf = rd_kafka_conf_new();
		has_brokers = check_options(conf, catalog, options);
	}
	PG_FINALLY();
	{
		if (conf)
			rd_kafka_conf_destroy(conf);
	}
	PG_END_TRY();

	if (catalog == ForeignServerRelationId && !has_brokers)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"bootstrap.servers\" is missing"),
				 errdetail("Without it nobody knows where Kafka is."),
				 errhint("Add OPTIONS (\"bootstrap.servers\" 'host:port').")));
	if (catalog == ForeignServerRelationId)
		option_conflicts_check(options);
	PG_RETURN_VOID();
}
