/*-------------------------------------------------------------------------
 *
 * receive.c
 *	  inbox.receive(): for applications that consume Kafka themselves.
 *
 * Privileges on the table are not checked: whoever may execute receive() may
 * add entries, and cannot do anything else by it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "inbox/table/dedup.h"

#define MAX_PAYLOAD_HASH 1024

PG_FUNCTION_INFO_V1(outbox_receive);

/* Raises an error where nothing can be written. */
static void
check_writable(void)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot receive a message during recovery"),
				 errdetail("This server is a standby, and inbox.receive() stores what was received."),
				 errhint("Receive on the primary server.")));
	if (XactReadOnly)
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot receive a message in a read-only transaction"),
				 errdetail("inbox.receive() stores what was received, in the transaction that calls it."),
				 errhint("Start the transaction with READ WRITE; see also default_transaction_read_only.")));
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot receive a message during a parallel operation"),
				 errdetail("A function that calls inbox.receive() was called by a parallel query."),
				 errhint("Declare functions that call inbox.receive() PARALLEL UNSAFE.")));
}

/*
 * A text argument, which must be neither null nor empty nor longer than
 * max_len bytes; meaning says what to pass instead.
 */
static Datum
required_text(FunctionCallInfo fcinfo, int argument, const char *name,
			  int max_len, const char *meaning)
{
	text	   *value;
	int			len;

	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name),
				 errhint("Pass %s.", meaning)));
	value = PG_GETARG_TEXT_PP(argument);
	len = VARSIZE_ANY_EXHDR(value);
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name),
				 errhint("Pass %s.", meaning)));
	if (len > max_len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", name),
				 errdetail("It has %d bytes; %d are allowed.", len, max_len),
				 errhint("Pass %s.", meaning)));
	return PointerGetDatum(value);
}

/*
 * receive(consumer text, event_id text, payload_hash bytea) RETURNS boolean
 *
 * True when the consumer receives the message for the first time, false when
 * it has received it before; atomic with the transaction.
 */
Datum
outbox_receive(PG_FUNCTION_ARGS)
{
	Datum		consumer;
	Datum		event_id;
	Datum		payload_hash = (Datum) 0;

	check_writable();
	consumer = required_text(fcinfo, 0, "consumer", RECEIVED_MAX_CONSUMER,
							 "a name of the consuming application, the same for all its processes");
	event_id = required_text(fcinfo, 1, "event_id", RECEIVED_MAX_EVENT_ID,
							 "the identity of the message: its header \"id\", or topic, partition and offset");
	if (*VARDATA_ANY(DatumGetPointer(consumer)) == RECEIVED_SUBSCRIPTION_PREFIX)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("consumer \"%s\" is a reserved name",
						TextDatumGetCString(consumer)),
				 errdetail("Names that begin with \"%c\" belong to subscriptions.",
						   RECEIVED_SUBSCRIPTION_PREFIX),
				 errhint("Choose another name.")));
	if (!PG_ARGISNULL(2))
	{
		bytea	   *hash = PG_GETARG_BYTEA_PP(2);
		int			len = VARSIZE_ANY_EXHDR(hash);

		if (len == 0 || len > MAX_PAYLOAD_HASH)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("payload_hash is not a hash"),
					 errdetail("It has %d bytes; 1 to %d are allowed.",
							   len, MAX_PAYLOAD_HASH),
					 errhint("Pass a digest of the payload, such as sha256(payload), or NULL.")));
		payload_hash = PointerGetDatum(hash);
	}
	PG_RETURN_BOOL(dedup_add(consumer, event_id, payload_hash));
}
