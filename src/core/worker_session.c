/*-------------------------------------------------------------------------
 *
 * worker_session.c
 *	  The session of a background worker of ours: one that nobody outside can
 *	  shape.
 *
 * A worker runs its statements as the bootstrap superuser.  PostgreSQL gives
 * it the settings of the server, of the database and of that role all the
 * same, and those of a database are its owner's choice, who need not be a
 * superuser.  A search_path would let him put functions and operators of his
 * own under the worker's statements.  Others would make what the worker writes
 * fail, end its process, or give its statements another meaning.
 *
 * So, right after it has connected, a worker pins all settings that say what a
 * statement means, what it may do and how long it may take, to what the server
 * was built with.  Which these are is not listed here: whole groups of settings
 * are pinned, so that one that a newer release of PostgreSQL adds to them is as
 * well.  Others it has as the server has them; what database and role have set
 * of them is taken back.
 *
 * The pins are those of a session, as SET makes them: a reload of the
 * configuration files does not touch them, and what the session would have
 * without them is still known.  What the role of the worker has set is taken
 * out of that, and what the role of a subscription has set goes in
 * (session_adopt).  A handler gets the result while it runs, together with the
 * role as its session's (session_lend).
 *
 *-------------------------------------------------------------------------
 */
#include "core/worker_session.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/memutils.h"

#include "core/compat.h"
#include "core/role_settings.h"

/*
 * What of the pinned groups is pinned to a value of ours, or not at all.  None
 * of it is lent.
 */
typedef struct Exception
{
	const char *name;
	const char *value;			/* NULL leaves it alone */
}			Exception;

static const Exception exceptions[] = {
	/* Of the subscription: see handler_call.c */
	{"search_path", "pg_catalog, pg_temp"},
	/* An error of a handler is caught; it must not end the process. */
	{"exit_on_error", "off"},
	/* A handler has handler_timeout instead. */
	{"transaction_timeout", "0"},
	/* That of the database, without which text would be garbled. */
	{"client_encoding", NULL},
	/* The language of the server's log. */
	{"lc_messages", NULL},
};

/* The server's value of each setting that a session may change. */
typedef struct ServerValue
{
	struct config_generic *setting;
	char	   *value;
	GucSource	source;			/* where it comes from */
} ServerValue;

/* Settings that were pinned and may be lent, in TopMemoryContext. */
static struct config_generic **lendable = NULL;
static int	nlendable = 0;

/* The role whose settings we have, and what was set for it. */
static Oid	adopted_role = InvalidOid;
static uint64 adopted_settings;

/* Does a setting of a session say what a statement means, or may do? */
static bool
shapes_statements(const struct config_generic *setting)
{
	/* Our library may be found by it only; who may set it is a superuser. */
	if (strcmp(setting->name, "dynamic_library_path") == 0)
		return false;
	switch (setting->group)
	{
		case CLIENT_CONN_STATEMENT:
		case CLIENT_CONN_LOCALE:
		case CLIENT_CONN_OTHER:
		case COMPAT_OPTIONS_PREVIOUS:
		case COMPAT_OPTIONS_OTHER:
		case ERROR_HANDLING_OPTIONS:
			return true;
		default:
			return false;
	}
}

static const Exception *
find_exception(const char *name)
{
	for (int i = 0; i < lengthof(exceptions); i++)
		if (strcmp(exceptions[i].name, name) == 0)
			return &exceptions[i];
	return NULL;
}

/* Is it one that is left as database and role have it? */
static bool
is_left_alone(const struct config_generic *setting)
{
	const		Exception *exception = find_exception(setting->name);

	return exception != NULL && exception->value == NULL;
}

/* The value that a setting was built with, as text; NULL if it has none. */
static const char *
built_in_value(struct config_generic *setting)
{
	switch (setting->vartype)
	{
		case PGC_BOOL:
			return ((struct config_bool *) setting)->boot_val ? "on" : "off";
		case PGC_INT:
			return psprintf("%d", ((struct config_int *) setting)->boot_val);
		case PGC_REAL:
			return psprintf("%g", ((struct config_real *) setting)->boot_val);
		case PGC_STRING:
			return ((struct config_string *) setting)->boot_val;
		case PGC_ENUM:
			return config_enum_lookup_by_value((struct config_enum *) setting,
											   ((struct config_enum *) setting)->boot_val);
	}
	return NULL;
}

/* Sets a setting as the session's own SET would. */
static void
set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, 0, false);
}

/* Pins one setting of those groups. */
static void
pin(struct config_generic *setting)
{
	const		Exception *exception = find_exception(setting->name);
	const char *value = exception ? exception->value : built_in_value(setting);

	if (value == NULL)
		return;
	set(setting->name, value);
	if (exception == NULL)
		lendable[nlendable++] = setting;
}

/* Does the value come from the database, or from our role? */
static bool
is_of_database_or_role(const struct config_generic *setting)
{
	return setting->source >= PGC_S_GLOBAL && setting->source <= PGC_S_DATABASE_USER;
}

/* May a session change it, with SET or for a role? */
static bool
is_changeable(const struct config_generic *setting)
{
	return setting->context >= PGC_SUSET &&
		(setting->flags & GUC_DISALLOW_IN_FILE) == 0;
}

/*
 * Reads what the server has set, before database and role have; the number of
 * settings is in *n.
 */
static ServerValue *
read_server_values(int *n)
{
	int			count;
	struct config_generic **settings = compat_guc_variables(&count);
	ServerValue *values = palloc(count * sizeof(ServerValue));

	*n = 0;
	for (int i = 0; i < count; i++)
	{
		const char *value;

		if (!is_changeable(settings[i]))
			continue;
		value = GetConfigOption(settings[i]->name, true, false);
		if (value == NULL)
			continue;
		values[*n].setting = settings[i];
		values[*n].value = pstrdup(value);
		values[*n].source = settings[i]->reset_source;
		(*n)++;
	}
	return values;
}

/*
 * Takes back what database and role have set.  A setting of a module that is
 * not loaded stays: nothing of ours looks at it, and its place changes when the
 * module is.
 */
static void
pin_to_server(const ServerValue *values, int n)
{
	for (int i = 0; i < n; i++)
	{
		struct config_generic *setting = values[i].setting;

		if (!is_of_database_or_role(setting) || is_left_alone(setting) ||
			(setting->flags & GUC_CUSTOM_PLACEHOLDER))
			continue;
		set(setting->name, values[i].value);
		lendable[nlendable++] = setting;
	}
}

static void
pin_all(const ServerValue *values, int n)
{
	lendable = MemoryContextAlloc(TopMemoryContext,
								  n * sizeof(struct config_generic *));
	for (int i = 0; i < n; i++)
		if (shapes_statements(values[i].setting))
			pin(values[i].setting);
	pin_to_server(values, n);
}

/* What the server has for a setting; NULL when it has none. */
static const ServerValue *
find_server_value(const struct config_generic *setting,
				  const ServerValue *values, int n)
{
	for (int i = 0; i < n; i++)
		if (values[i].setting == setting)
			return &values[i];
	return NULL;
}

/*
 * Sets what a setting has, and what RESET brings back, to the server's value.
 */
static void
revert(struct config_generic *setting, const ServerValue *server)
{
	/*
	 * A weaker source replaces the value of a stronger one only so.  None is
	 * as weak as what a setting was built with: PostgreSQL keeps a list of
	 * those that have another value.
	 */
	setting->reset_source = setting->source = PGC_S_ENV_VAR;
	if (server != NULL)
		(void) set_config_option(setting->name, server->value, PGC_SUSET,
								 Max(server->source, PGC_S_ENV_VAR),
								 GUC_ACTION_SET, true, WARNING, false);
	else if (setting->flags & GUC_CUSTOM_PLACEHOLDER)
	{
		struct config_string *conf = (struct config_string *) setting;

		/* Not "", which its module may not take for a value. */
		conf->reset_val = *conf->variable = NULL;
	}
}

/*
 * The session has what the bootstrap superuser has set for itself, which is
 * nobody else's business.  Gives it what it would have without.
 */
static void
take_back_own_settings(const ServerValue *values, int n)
{
	int			count;
	struct config_generic **settings = compat_guc_variables(&count);

	for (int i = 0; i < count; i++)
	{
		struct config_generic *setting = settings[i];

		if (is_changeable(setting) && !is_left_alone(setting) &&
			(setting->reset_source == PGC_S_USER ||
			 setting->reset_source == PGC_S_DATABASE_USER))
			revert(setting, find_server_value(setting, values, n));
	}
	StartTransactionCommand();
	role_settings_apply(MyDatabaseId, InvalidOid, PGC_S_DATABASE);
	role_settings_apply(InvalidOid, InvalidOid, PGC_S_GLOBAL);
	CommitTransactionCommand();
}

/* Who we are can be set for a database, too. */
static void
pin_identity(void)
{
	StartTransactionCommand();
	set("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false));
	set("role", "none");
	CommitTransactionCommand();
}

/*
 * Connects this worker to a database, or to none for InvalidOid, as the
 * bootstrap superuser, with a session that nothing outside can shape.
 */
void
session_connect(Oid database)
{
	int			n;
	ServerValue *values = read_server_values(&n);

	if (OidIsValid(database))
	{
		BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
		pin_identity();
		take_back_own_settings(values, n);
	}
	else
		BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pin_all(values, n);
}

/*
 * From now on session_lend() gives what a session of a role in this database
 * would have.  To be called once, outside of transactions.
 */
void
session_adopt(Oid role)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox settings",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int			n;
	ServerValue *values = read_server_values(&n);

	for (int i = 0; i < n; i++)
		if (is_left_alone(values[i].setting))
			set(values[i].setting->name, values[i].value);
	StartTransactionCommand();
	adopted_role = role;
	adopted_settings = role_settings_hash(role);
	role_settings_apply(MyDatabaseId, role, PGC_S_DATABASE_USER);
	role_settings_apply(InvalidOid, role, PGC_S_USER);
	CommitTransactionCommand();
	lendable = repalloc(lendable,
						(nlendable + n) * sizeof(struct config_generic *));
	pin_to_server(values, n);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * Would session_adopt() find other settings by now?  Needs a transaction.
 */
bool
session_is_outdated(void)
{
	return role_settings_hash(adopted_role) != adopted_settings;
}

/* Has a setting another value than it would have without us? */
static bool
is_shaped(const struct config_generic *setting)
{
	switch (setting->vartype)
	{
		case PGC_BOOL:
			{
				const struct config_bool *conf = (const struct config_bool *) setting;

				return *conf->variable != conf->reset_val;
			}
		case PGC_INT:
			{
				const struct config_int *conf = (const struct config_int *) setting;

				return *conf->variable != conf->reset_val;
			}
		case PGC_REAL:
			{
				const struct config_real *conf = (const struct config_real *) setting;

				return *conf->variable != conf->reset_val;
			}
		case PGC_STRING:
			{
				const struct config_string *conf = (const struct config_string *) setting;
				const char *value = *conf->variable ? *conf->variable : "";

				return strcmp(value, conf->reset_val ? conf->reset_val : "") != 0;
			}
		case PGC_ENUM:
			{
				const struct config_enum *conf = (const struct config_enum *) setting;

				return *conf->variable != conf->reset_val;
			}
	}
	return false;
}

/*
 * Makes the session that of a role until the present nest level of settings
 * ends (NewGUCNestLevel): session_user is the role, and the settings are those
 * that its sessions have.  They cost next to nothing where they are what they
 * are pinned to.
 *
 * Who asks for it must take on the role with SECURITY_LOCAL_USERID_CHANGE at
 * once: without, RESET SESSION AUTHORIZATION would lead back.
 */
void
session_lend(Oid role)
{
	for (int i = 0; i < nlendable; i++)
		if (is_shaped(lendable[i]))
			(void) set_config_option(lendable[i]->name, NULL, PGC_SUSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
									 false);
	(void) set_config_option("session_authorization",
							 GetUserNameFromId(role, false), PGC_SUSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}
