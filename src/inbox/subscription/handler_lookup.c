/*-------------------------------------------------------------------------
 *
 * handler_lookup.c
 *	  What a subscription names: its handler, its server and its group.
 *
 * Handler and server are kept by name, so that a dump restores them, and what
 * is dropped and created again is found again.  Which of two functions of the
 * name it is, is kept as well: whoever may create functions in the schema could
 * stop the subscription by another one.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/subscription/handler_lookup.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "core/compat.h"
#include "inbox/message/message.h"
#include "kafka/config/config.h"

#define HANDLER_HINT \
	"A handler is a function f(inbox.message) RETURNS void, or f(inbox.message[]) RETURNS void to get many messages at once."

/*
 * The parts of a function's name.  Raises an error when it is not written as
 * in SQL.
 */
static List *
parse_name(const char *name)
{
	List	   *parts;
	List	   *result = NIL;
	ListCell   *lc;

	if (strchr(name, '(') != NULL && strchr(name, '"') == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("\"%s\" is not the name of a function", name),
				 errdetail("A handler is named without its arguments."),
				 errhint("Pass \"%s\".", pnstrdup(name, strcspn(name, "(")))));
	if (!SplitIdentifierString(pstrdup(name), '.', &parts) ||
		parts == NIL || list_length(parts) > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("\"%s\" is not the name of a function", name),
				 errhint("Pass a name as it is written in SQL, with or without a schema: on_order, shop.on_order, \"Shop\".\"On order\".")));
	foreach(lc, parts)
		result = lappend(result, makeString(pstrdup(lfirst(lc))));
	return result;
}

/* A list of functions, as an error message shows it. */
static char *
list_functions(FuncCandidateList functions)
{
	StringInfoData list;

	initStringInfo(&list);
	for (; functions; functions = functions->next)
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
						 format_procedure(functions->oid));
	return list.data;
}

/*
 * Among functions of one name, finds those that take a message and an array
 * of messages; InvalidOid where there is none.  Of several schemas in the
 * search_path the first counts.
 */
static void
find_candidates(List *names, Oid *single, Oid *array)
{
	FuncCandidateList functions;
	Oid			type = message_type();
	Oid			array_type = get_array_type(type);
	int			path_position = INT_MAX;

	*single = *array = InvalidOid;
	functions = FuncnameGetCandidates(names, 1, NIL, false, false, false, true);
	for (FuncCandidateList f = functions; f; f = f->next)
		if (f->args[0] == type || f->args[0] == array_type)
			path_position = Min(path_position, f->pathpos);
	for (FuncCandidateList f = functions; f; f = f->next)
	{
		if (f->pathpos != path_position)
			continue;
		if (f->args[0] == type)
			*single = f->oid;
		else if (f->args[0] == array_type)
			*array = f->oid;
	}
}

/* Raises the error that no function of the name can be a handler. */
static void
raise_no_candidate(const char *name, List *names)
{
	FuncCandidateList functions = FuncnameGetCandidates(names, -1, NIL, false,
														false, false, true);

	if (functions == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s does not exist", name),
				 errdetail("There is no function of that name that you can see."),
				 errhint(HANDLER_HINT)));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("handler %s does not take a message", name),
			 errdetail("There is %s.", list_functions(functions)),
			 errhint(HANDLER_HINT)));
}

/* Raises an error when a function cannot be a handler, though it takes one. */
static void
check_function(Form_pg_proc function)
{
	char	   *name = format_procedure(function->oid);

	if (function->prokind != PROKIND_FUNCTION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("handler %s is not a function", name),
				 errdetail("It is %s.",
						   function->prokind == PROKIND_PROCEDURE ? "a procedure" :
						   function->prokind == PROKIND_AGGREGATE ? "an aggregate function" :
						   "a window function"),
				 errhint(HANDLER_HINT)));
	if (OidIsValid(function->provariadic))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler %s is variadic", name),
				 errhint(HANDLER_HINT)));
	if (function->prorettype != VOIDOID || function->proretset)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("handler %s does not return void", name),
				 errdetail("It returns %s%s, and nobody would look at that.",
						   function->proretset ? "a set of " : "",
						   format_type_be(function->prorettype)),
				 errhint(HANDLER_HINT)));
	if (isAnyTempNamespace(function->pronamespace))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler %s is temporary",
						quote_identifier(NameStr(function->proname))),
				 errdetail("Only this session can call it, and another process would have to."),
				 errhint("Create it in another schema.")));
}

/* Raises an error when a role may not execute a function. */
static void
check_function_rights(Form_pg_proc function, Oid role)
{
	char	   *name = format_procedure(function->oid);
	char	   *role_name = GetUserNameFromId(role, false);
	char	   *schema = get_namespace_name(function->pronamespace);

	if (!compat_may_use_schema(function->pronamespace, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", schema),
				 errdetail("Role \"%s\" may not use it, and handler %s would run as that role.",
						   role_name, name),
				 errhint("GRANT USAGE ON SCHEMA %s TO %s",
						 quote_identifier(schema), quote_identifier(role_name))));
	if (!compat_may_execute(function->oid, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for handler %s", name),
				 errdetail("Role \"%s\" may not execute it, and it would run as that role.",
						   role_name),
				 errhint("GRANT EXECUTE ON FUNCTION %s TO %s",
						 format_procedure_qualified(function->oid),
						 quote_identifier(role_name))));
}

/* Raises the error that a name means two functions. */
static void
raise_ambiguous(const char *name, Oid single, Oid array)
{
	ereport(ERROR,
			(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
			 errmsg("handler %s is ambiguous", name),
			 errdetail("There is one for a message, %s, and one for many, %s.",
					   format_procedure(single), format_procedure(array)),
			 errhint("Drop or rename one of them.")));
}

/*
 * Finds the function that a handler's name means, as seen by the search_path
 * and the rights of the current user, and to be run by a role.  Returns its
 * name, qualified and quoted, and sets *function and *takes_array.  Raises an
 * error when there is none, or it cannot be a handler.  Of two functions of
 * the name, which is an error as well, it is that of the kind, if that is
 * known.
 */
char *
resolve_handler(const char *name, HandlerKind kind, Oid role, Oid *function,
				bool *takes_array)
{
	List	   *names;
	Oid			single;
	Oid			array;
	HeapTuple	tuple;
	Form_pg_proc form;
	char	   *qualified;

	names = parse_name(name);
	find_candidates(names, &single, &array);
	if (!OidIsValid(single) && !OidIsValid(array))
		raise_no_candidate(name, names);

	*takes_array = !OidIsValid(single) ||
		(kind == HANDLER_OF_MANY && OidIsValid(array));
	*function = *takes_array ? array : single;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(*function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", *function);
	form = (Form_pg_proc) GETSTRUCT(tuple);
	qualified = quote_qualified_identifier(get_namespace_name(form->pronamespace),
										   NameStr(form->proname));
	/* What one schema hides from the other still counts. */
	find_candidates(parse_name(qualified), &single, &array);
	if (kind == HANDLER_OF_ANY && OidIsValid(single) && OidIsValid(array))
		raise_ambiguous(qualified, single, array);
	check_function(form);
	check_function_rights(form, role);
	ReleaseSysCache(tuple);
	return qualified;
}

/*
 * Raises an error unless there is a server of the name with Kafka settings
 * that a role may use.
 */
void
check_server(const char *name, Oid role)
{
	Oid			oid = get_foreign_server_oid(name, true);
	ForeignServer *server;

	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 errdetail("A subscription needs a foreign server with the Kafka settings."),
				 errhint("CREATE SERVER %s FOREIGN DATA WRAPPER " KAFKA_WRAPPER_NAME " OPTIONS (\"bootstrap.servers\" 'host:port')",
						 quote_identifier(name))));
	server = GetForeignServer(oid);
	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname,
			   KAFKA_WRAPPER_NAME) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" has no Kafka settings", name),
				 errdetail("Its foreign-data wrapper is \"%s\".",
						   GetForeignDataWrapper(server->fdwid)->fdwname),
				 errhint("Name a server of foreign-data wrapper \"" KAFKA_WRAPPER_NAME "\".")));
	if (!compat_may_use_server(oid, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s", name),
				 errdetail("Role \"%s\" may not use it.",
						   GetUserNameFromId(role, false)),
				 errhint("GRANT USAGE ON FOREIGN SERVER %s TO %s",
						 quote_identifier(name),
						 quote_identifier(GetUserNameFromId(role, false)))));
}

/*
 * Raises an error unless the current user may have offsets reported to a group
 * of Kafka, with a server that exists.  Every group can be set back or forward
 * while nobody is in it, so those of others are for who may decide for the
 * server.
 */
void
check_group_rights(const char *group, const char *server)
{
	char	   *database = get_database_name(MyDatabaseId);
	size_t		len = strlen(database);

	if ((strncmp(group, database, len) == 0 && group[len] == '.') ||
		compat_owns_server(get_foreign_server_oid(server, false)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for consumer group \"%s\"", group),
			 errdetail("Only superusers and the owner of server \"%s\" may choose a group that does not begin with the name of the database.",
					   server),
			 errhint("Leave group_id out, or let it begin with \"%s.\".",
					 database)));
}
