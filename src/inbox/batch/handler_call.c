/*-------------------------------------------------------------------------
 *
 * handler_call.c
 *	  Calls a subscription's handler, as the role that subscribed.
 *
 * The worker's session belongs to a superuser, and the handler must not get
 * at those rights.
 *
 * - It runs in what looks like a session of its role: session_user, search_path
 *	 and settings are those of the role, of which the worker's own statements
 *	 see none (worker_session.c).  It runs within SECURITY_LOCAL_USERID_CHANGE,
 *	 which refuses whatever would set or reset role or session authorization.
 *
 * - Code that it leaves behind for the commit would run as the superuser: a
 *	 deferred trigger, or the query of a cursor WITH HOLD.  So before the
 *	 worker steps back up, deferred triggers are fired and cursors are closed,
 *	 still as the handler's role and in its subtransaction.
 *	 SECURITY_RESTRICTED_OPERATION would refuse to defer at all, and deferrable
 *	 foreign keys with it.
 *
 * - A handler may catch the error that its time is over.  If it then goes on
 *	 for long, the process ends, which nobody can catch; what follows is the
 *	 same as for a handler that ends the process itself.
 *
 * - Settings are undone with the subtransaction's nest level, whether it ends
 *	 well or not.  Temporary objects, LISTEN, prepared statements and session
 *	 locks go with the worker's transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/handler_call.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "core/worker_session.h"
#include "inbox/batch/handler_backoff.h"
#include "inbox/batch/handler_failure.h"
#include "inbox/batch/transaction_limit.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/handler_lookup.h"
#include "inbox/subscription/subscription.h"

/* Time that a handler has to end after its time is over. */
#define GRACE_MS 2000

static volatile sig_atomic_t overdue = false;

/* Whose handler is running; NULL when none is. */
static const char *running_subscription = NULL;

/*
 * Finds the handler, which may have been dropped and made again since the
 * last batch, in the current memory context.  Raises an error when it is not
 * there, or the role may not call it, or not take messages from Kafka.  Needs
 * a transaction.
 */
void
handler_find(Handler *handler, InboxWorker *worker)
{
	Subscription *subscription = worker->subscription;
	Oid			row = message_type();
	Oid			function;

	/* It may have been dropped since the worker began. */
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(subscription->role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which made subscription \"%s\", does not exist any more",
						subscription->role_name, subscription->name)));
	(void) resolve_handler(subscription->handler, subscription->handler_kind,
						   subscription->role, &function, &handler->takes_array);
	check_server(subscription->server, subscription->role);
	handler->worker = worker;
	handler->element_type = row;
	fmgr_info(function, &handler->function);
}

/* Calls the handler with one argument. */
static void
call(Handler *handler, Datum argument)
{
	LOCAL_FCINFO(fcinfo, 1);

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	InitFunctionCallInfoData(*fcinfo, &handler->function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	(void) FunctionCallInvoke(fcinfo);
	PopActiveSnapshot();
}

/* The handler goes on after its time.  Runs in a signal handler. */
static void
end_process(void)
{
	overdue = true;
	(void) kill(MyProcPid, SIGTERM);
}

/*
 * Has this process been ended because the handler went on after its time?
 */
bool
handler_is_overdue(void)
{
	return overdue;
}

static TimeoutId
grace_timeout(void)
{
	static TimeoutId id = MAX_TIMEOUTS;

	if (id == MAX_TIMEOUTS)
		id = RegisterTimeout(USER_TIMEOUT, end_process);
	return id;
}

/* Sets the time limits of the call that comes next. */
static void
start_clock(const Handler *handler)
{
	int			timeout_ms = (int) Min(handler->worker->subscription->timeout_ms,
									   INT_MAX - GRACE_MS);
	EnableTimeoutParams limits[] = {
		{.id = STATEMENT_TIMEOUT,.type = TMPARAM_AFTER,.delay_ms = timeout_ms},
		{.id = grace_timeout(),.type = TMPARAM_AFTER,.delay_ms = timeout_ms + GRACE_MS},
	};

	enable_timeouts(limits, lengthof(limits));
}

/* A signal that came too late must not hit what comes next. */
static void
stop_clock(void)
{
	DisableTimeoutParams limits[] = {
		{.id = STATEMENT_TIMEOUT,.keep_indicator = true},
		{.id = grace_timeout(),.keep_indicator = false},
	};

	disable_timeouts(limits, lengthof(limits));
	if (get_timeout_indicator(STATEMENT_TIMEOUT, true))
		QueryCancelPending = false;
}

/*
 * Raises an error when this is called from the handler of that subscription,
 * whose transaction can only be committed while the subscription is where it
 * was.
 */
void
handler_refuse_to_move(const char *subscription)
{
	if (running_subscription == NULL ||
		strcmp(running_subscription, subscription) != 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("the handler of subscription \"%s\" cannot move or end it",
					subscription),
			 errdetail("Its position moves in the transaction that the handler runs in."),
			 errhint("Call inbox.pause() in the handler, and this function from another session.")));
}

/*
 * Calls the handler for each message, or once for all of them.  Returns how
 * many it got to in the time that a transaction may take.
 */
static int
call_for_all(Handler *handler, InboxMessage **messages, int n)
{
	int			done = 0;

	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox handler",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	if (handler->takes_array)
	{
		Datum	   *elements = palloc(sizeof(Datum) * n);

		for (int i = 0; i < n; i++)
			elements[i] = message_datum(messages[i]);
		start_clock(handler);
		call(handler, PointerGetDatum(construct_array(elements, n,
													  handler->element_type, -1,
													  false, TYPALIGN_DOUBLE)));
		done = n;
	}
	while (done < n &&
		   (done == 0 || !inbox_transaction_is_over(handler->worker)))
	{
		start_clock(handler);
		call(handler, message_datum(messages[done++]));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return done;
}

/*
 * Runs what the handler has put off to the commit, and closes its cursors, so
 * that nothing is left to run with the worker's rights.
 */
static void
settle(void)
{
	CommandCounterIncrement();
	AfterTriggerFireDeferred();
	PortalHashTableDeleteAll();
}

/*
 * Becomes the subscriber, calls the handler, and is itself again.  Returns how
 * many of the messages it was called for.
 */
static int
call_as_subscriber(Handler *handler, InboxMessage **messages, int n)
{
	Subscription *subscription = handler->worker->subscription;
	int			nest_level = NewGUCNestLevel();
	Oid			user;
	int			context;
	int			done;

	session_lend(subscription->role);
	(void) set_config_option("search_path", subscription->search_path,
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(subscription->role,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	done = call_for_all(handler, messages, n);
	settle();
	stop_clock();
	SetUserIdAndSecContext(user, context);
	AtEOXact_GUC(false, nest_level);
	return done;
}

/*
 * May the same thing succeed when it is simply done again?
 */
bool
handler_error_is_transient(int sqlstate)
{
	return sqlstate == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		sqlstate == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * Is it handler_timeout that the error comes from?  PostgreSQL's own words are
 * of a statement_timeout, which nobody has set.
 */
static bool
is_timeout(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		get_timeout_finish_time(STATEMENT_TIMEOUT) <= GetCurrentTimestamp();
}

/*
 * Keeps the error that is being handled, in the current memory context.  What
 * comes after the word DETAIL may quote data, and inbox.stat_subscription leaves
 * it out.
 */
void
handler_keep_failure(HandlerFailure *failure)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();
	failure->sqlstate = error->sqlerrcode;
	failure->message = pstrdup(error->message ? error->message : "no message");
	if (error->detail)
		failure->message = psprintf("%s\nDETAIL:  %s", failure->message, error->detail);
	failure->context = error->context ? pstrdup(error->context) : NULL;
	failure->transient = handler_error_is_transient(error->sqlerrcode);
	failure->timeout = is_timeout(error);
	FreeErrorData(error);
}

/*
 * Runs the handler over messages in a subtransaction.  *n becomes the number of
 * those that it got to in the time that a transaction may take, one at least.
 * Returns false when it failed: then its effects are undone, and failure, in
 * the current memory context, tells why.  After a failure that is transient the
 * whole transaction should be done again.
 */
bool
handler_run(Handler *handler, InboxMessage **messages, int *n,
			HandlerFailure *failure)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool succeeded = true;

	running_subscription = handler->worker->subscription->name;
	handler->worker->phase = PHASE_HANDLER;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		*n = call_as_subscriber(handler, messages, *n);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		stop_clock();
		handler_keep_failure(failure);
		if (failure->timeout)
			failure->message = psprintf("handler was canceled after handler_timeout (" INT64_FORMAT " ms)",
										handler->worker->subscription->timeout_ms);
		RollbackAndReleaseCurrentSubTransaction();
		succeeded = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	if (succeeded)
		handler_backoff_succeeded(handler->worker);
	else
		handler_backoff_failed(handler->worker, failure);
	CurrentResourceOwner = owner;
	running_subscription = NULL;
	handler->worker->phase = PHASE_OWN;
	return succeeded;
}

/*
 * Removes what a handler may have left in the session.  Call in the
 * transaction, before it commits.  Costs next to nothing when there is
 * nothing.
 */
void
handler_clean_up_in_transaction(void)
{
	ResetTempTableNamespace();
	Async_UnlistenAll();
}

/*
 * The same, after the transaction.
 */
void
handler_clean_up_after_transaction(void)
{
	DropAllPreparedStatements();
	LockReleaseAll(USER_LOCKMETHOD, true);
}
