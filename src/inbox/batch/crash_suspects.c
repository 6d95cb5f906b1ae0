/*-------------------------------------------------------------------------
 *
 * crash_suspects.c
 *	  Finds the message that ends a process.
 *
 * A handler may take its process down, or the whole server: by memory, by a
 * crash, by pg_terminate_backend(), by never coming to an end.  That can
 * happen in the first call, in a later attempt, or at the commit.  The message
 * must be found among those that were handled with it, in a number of deaths
 * that does not depend on how many these were.  To each message, new or from
 * inbox.message, it is always the same that happens:
 *
 *	 unsuspected  It is handled together with others.  Meanwhile it is under
 *				  way, which shared memory knows until the transaction has
 *				  ended, whether that committed or was undone in order.
 *	 suspect	  A process ended while it was under way, or a commit failed.
 *				  It is handled alone, and is charged first.
 *	 charged	  An attempt is counted on disk, as if it had ended the process;
 *				  then the handler runs, alone in its transaction.  Success, an
 *				  error and an error of the commit take the charge back and
 *				  count as what they are.  When the process ends once more, the
 *				  charge is still there, and the message is suspect.
 *	 failed		  It has no attempts left.  Something else may have ended the
 *				  process, so each has two at least.
 *
 * So a message that kills costs one death among others and one for each of its
 * attempts; all others are handled once more, alone.
 *
 * What is under way is a Bloom filter in the entry of shared memory.  It may
 * take a message for one that was under way; then that is handled alone, which
 * harms nobody.  A process that ends because it is told to leaves no suspects.
 *
 * Shared memory does not outlive a crash of the server.  Who has worked since
 * the last crash has a row in inbox.crash_marker, an unlogged table, which a crash
 * empties.  Without it, suspect is what may have been under way then: as many
 * new messages of each partition as a batch may have, unless they came later,
 * and what waited in inbox.message.  New is what was not received before: who
 * moves the subscription back, or makes it anew, before the server crashes, hides
 * nobody by that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/crash_suspects.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "inbox/batch/under_way.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"

/*
 * Must the message be handled alone?  One of inbox.message is stored; another
 * one is new, of that partition.
 */
bool
crash_suspects_is_suspect(InboxWorker *worker, const Partition *partition,
						  const InboxMessage *message, bool stored)
{
	if (culprit_is_listed(worker, message))
		return true;
	if (!worker->crashed)
		return false;
	return stored ? waiting_is_old(worker, partition, message) :
		partition->suspects > 0;
}

/*
 * A message that came from Kafka has been dealt with, and the process is still
 * there.  One that is repeated, or not wanted, was not under way when the server
 * crashed.
 */
void
crash_suspects_passed(InboxWorker *worker, Partition *partition,
					  const InboxMessage *message, bool repeated)
{
	if (partition->suspects > 0 && !repeated)
		partition->suspects--;
	if (culprit_is_listed(worker, message))
		culprit_acquit(worker);
}

/*
 * Was the message there before this process began, after a crash of the server?
 */
bool
waiting_is_old(const InboxWorker *worker, const Partition *partition,
			   const InboxMessage *message)
{
	return worker->crashed &&
		(DatumGetInt64(message->values[MESSAGE_OFFSET]) < partition->began_at ||
		 DatumGetTimestampTz(message->values[MESSAGE_RECEIVED_AT]) <
		 worker->status.started_at);
}

/*
 * Has a process died during the message's last attempt?
 */
bool
charge_is_marked(const InboxMessage *message)
{
	return !message->nulls[MESSAGE_ERROR_SQLSTATE] &&
		strcmp(TextDatumGetCString(message->values[MESSAGE_ERROR_SQLSTATE]),
			   unpack_sql_state(DEATH_SQLSTATE)) == 0;
}

/*
 * Must a message of inbox.message be handled alone, if at all?
 */
bool
charge_is_due(InboxWorker *worker, const Partition *partition,
			  const InboxMessage *message)
{
	return message->problem == NULL &&
		(charge_is_marked(message) ||
		 crash_suspects_is_suspect(worker, partition, message, true));
}
