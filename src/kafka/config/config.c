/*-------------------------------------------------------------------------
 *
 * config.c
 *	  Reads Kafka settings out of the catalogs.
 *
 * The settings are the options of a foreign server and, over them, of a user
 * mapping: that of the server's owner, else PUBLIC's.  options.c has checked
 * them when they were made.  Files that they name, such as certificates, are
 * part of them: who has read the settings can ask whether those have changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/config/config.h"

#include <sys/stat.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/config/properties.h"

#define LOOK_MS 1000			/* between two looks at files */

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

	config->connections = DEFAULT_CONNECTIONS;
	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, DELIVERY_OPTION) == 0)
			config->exactly_once = strcmp(strVal(option->arg), DELIVERY_EXACTLY_ONCE) == 0;
		else if (strcmp(option->defname, TIMESTAMP_OPTION) == 0)
			config->send_time = strcmp(strVal(option->arg), TIMESTAMP_SEND) == 0;
		else if (strcmp(option->defname, CONNECTIONS_OPTION) == 0)
			config->connections = pg_strtoint32(strVal(option->arg));
		else
			continue;
		config->options = foreach_delete_current(config->options, lc);
	}
}

/* What tells a file from what was in its place before. */
static uint64
file_state(const char *path)
{
	struct stat now;
	struct
	{
		uint64		device;
		uint64		inode;
		uint64		size;
		uint64		seconds;
		uint64		nanoseconds;
	}			state;

	if (stat(path, &now) != 0)
		return errno;
	state.device = now.st_dev;
	state.inode = now.st_ino;
	state.size = now.st_size;
	state.seconds = now.st_mtim.tv_sec;
	state.nanoseconds = now.st_mtim.tv_nsec;
	return hash_bytes_extended((unsigned char *) &state, sizeof(state), 0);
}

/* The same for all files that the options name. */
static uint64
look_at_files(KafkaConfig *config)
{
	uint64		all = 0;
	ListCell   *lc;

	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (!property_names_file(option->defname))
			continue;
		config->names_files = true;
		all = hash_combine64(all, file_state(strVal(option->arg)));
	}
	return all;
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
	config->owner_reads_files = has_privs_of_role(server->owner,
												  ROLE_PG_READ_SERVER_FILES);
	config->files = config->files_seen = look_at_files(config);
	config->looked_at = monotonic_now();
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
 * Did he choose the SASL mechanism?
 */
bool
kafka_config_has_mechanism(const KafkaConfig *config)
{
	ListCell   *lc;

	foreach(lc, config->options)
		if (property_is_mechanism(lfirst_node(DefElem, lc)->defname))
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
		a->owner_reads_files == b->owner_reads_files &&
		a->send_time == b->send_time && a->connections == b->connections &&
		a->files == b->files &&
		equal(a->options, b->options);
}

/*
 * Have files that it names, which the library reads but once, changed since it
 * was read?  Looks once a second at most, and waits until nobody is about to
 * change them: a certificate and its key are two files.
 */
bool
kafka_config_files_changed(KafkaConfig *config)
{
	TimestampTz now = monotonic_now();
	uint64		before = config->files_seen;

	if (!config->names_files ||
		!TimestampDifferenceExceeds(config->looked_at, now, LOOK_MS))
		return false;
	config->looked_at = now;
	config->files_seen = look_at_files(config);
	return config->files_seen != config->files && config->files_seen == before;
}

/*
 * For how long one may wait, at most timeout_ms, before that is asked; -1
 * stands for no limit.  There may be no configuration.
 */
long
kafka_config_wait_ms(const KafkaConfig *config, long timeout_ms)
{
	if (config == NULL || !config->names_files)
		return timeout_ms;
	return timeout_ms < 0 ? LOOK_MS : Min(timeout_ms, LOOK_MS);
}
