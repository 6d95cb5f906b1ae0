/*-------------------------------------------------------------------------
 *
 * config.c
 *	  Reads Kafka settings out of the catalogs.
 *
 * The settings are the options of a foreign server and, over them, of a user
 * mapping: that of the server's owner, else PUBLIC's.  options.c has checked
 * them when they were made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/config.h"

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

/* The options of a user's mapping; false when there is no mapping. */
static bool
mapping_options(Oid user, Oid server, List **options)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
										ObjectIdGetDatum(user),
										ObjectIdGetDatum(server));
	Datum		datum;
	bool		isnull;

	*options = NIL;
	if (!HeapTupleIsValid(tuple))
		return false;
	datum = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		*options = untransformRelOptions(datum);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Takes the options that are ours, not librdkafka's, out of the list.
 */
void
kafka_config_take_own(KafkaConfig *config)
{
	ListCell   *lc;

	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, DELIVERY_OPTION) == 0)
			config->exactly_once = strcmp(strVal(option->arg), DELIVERY_EXACTLY_ONCE) == 0;
		else if (strcmp(option->defname, TIMESTAMP_OPTION) == 0)
			config->send_time = strcmp(strVal(option->arg), TIMESTAMP_SEND) == 0;
		else
			continue;
		config->options = foreach_delete_current(config->options, lc);
	}
}

/*
 * Reads the settings of a foreign server of our wrapper, and its secrets.
 * Returns NULL when there is no such server.  Needs a transaction; the result
 * is in the current memory context.
 */
KafkaConfig *
kafka_config_load(const char *server_name)
{
	ForeignServer *server = GetForeignServerByName(server_name, true);
	KafkaConfig *config;
	List	   *secrets;

	if (server == NULL ||
		strcmp(GetForeignDataWrapper(server->fdwid)->fdwname,
			   KAFKA_WRAPPER_NAME) != 0)
		return NULL;
	if (!mapping_options(server->owner, server->serverid, &secrets))
		(void) mapping_options(InvalidOid, server->serverid, &secrets);

	config = palloc0(sizeof(KafkaConfig));
	config->options = list_concat(server->options, secrets);
	kafka_config_take_own(config);
	return config;
}

/*
 * Did the administrator choose a property, under that name?
 */
bool
kafka_config_has(const KafkaConfig *config, const char *name)
{
	ListCell   *lc;

	foreach(lc, config->options)
		if (strcmp(lfirst_node(DefElem, lc)->defname, name) == 0)
		return true;
	return false;
}

/*
 * Do two configurations say the same?
 */
bool
kafka_config_equal(const KafkaConfig *a, const KafkaConfig *b)
{
	return a->exactly_once == b->exactly_once &&
		a->send_time == b->send_time && equal(a->options, b->options);
}
