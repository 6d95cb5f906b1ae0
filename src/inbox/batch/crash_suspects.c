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

#include "core/background_worker.h"
#include "inbox/batch/redelivery_queue.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/process/partition_lag.h"
#include "kafka/consumer/consumer.h"
#include "registry/consumer_entry.h"

#define SET_BITS (MESSAGE_SET_WORDS * 64)
#define SET_HASHES 4			/* bits of each message */

/* Two independent hashes, in one, of what tells a message. */
static uint64
hash_message(const InboxMessage *message)
{
	int64		offset = DatumGetInt64(message->values[MESSAGE_OFFSET]);
	struct varlena *topic = (struct varlena *)
	DatumGetPointer(message->values[MESSAGE_TOPIC]);
	uint64		hash = hash_bytes_extended((unsigned char *) VARDATA_ANY(topic),
										   VARSIZE_ANY_EXHDR(topic),
										   (uint64) DatumGetInt32(message->values[MESSAGE_PARTITION]));

	return hash_bytes_extended((unsigned char *) &offset, sizeof(offset), hash);
}

/* The i-th bit of a message: "double hashing", as Kirsch and Mitzenmacher. */
static uint32
bit_of(uint64 hash, int i)
{
	return ((uint32) hash + i * ((uint32) (hash >> 32) | 1)) % SET_BITS;
}

static void
set_add(MessageSet *set, const InboxMessage *message)
{
	uint64		hash = hash_message(message);

	for (int i = 0; i < SET_HASHES; i++)
	{
		uint32		bit = bit_of(hash, i);

		set->bits[bit / 64] |= UINT64CONST(1) << (bit % 64);
	}
	set->n++;
}

static bool
set_has(const MessageSet *set, const InboxMessage *message)
{
	uint64		hash;

	if (set->n == 0)
		return false;
	hash = hash_message(message);
	for (int i = 0; i < SET_HASHES; i++)
	{
		uint32		bit = bit_of(hash, i);

		if ((set->bits[bit / 64] & (UINT64CONST(1) << (bit % 64))) == 0)
			return false;
	}
	return true;
}

static void
set_clear(MessageSet *set)
{
	if (set->n > 0)
		memset(set, 0, sizeof(MessageSet));
}

/*
 * Notes a message that is handled from now on.
 */
void
culprit_under_way(InboxWorker *worker, const InboxMessage *message)
{
	set_add(&worker->entry->under_way, message);
}

/*
 * The transaction has ended in order, or the process leaves in order: what was
 * under way is not any more.
 */
void
culprit_clear(InboxWorker *worker)
{
	set_clear(&worker->entry->under_way);
}

/*
 * What was under way is suspect from now on.
 */
void
culprit_suspect(InboxWorker *worker)
{
	ConsumerEntry *entry = worker->entry;

	for (int i = 0; i < MESSAGE_SET_WORDS && entry->under_way.n > 0; i++)
		entry->suspects.bits[i] |= entry->under_way.bits[i];
	entry->suspects.n += entry->under_way.n;
	set_clear(&entry->under_way);
}

/*
 * Must the message be handled alone?  One of inbox.message is stored; another
 * one is new, of that partition.
 */
bool
culprit_is_suspect(InboxWorker *worker, const Partition *partition,
				   const InboxMessage *message, bool stored)
{
	if (set_has(&worker->entry->suspects, message))
		return true;
	if (!worker->crashed)
		return false;
	return stored ? waiting_is_old(worker, partition, message) :
		partition->suspects > 0;
}

/*
 * A suspect has been handled, and the process is still there.
 */
void
culprit_acquit(InboxWorker *worker)
{
	MessageSet *suspects = &worker->entry->suspects;

	if (suspects->n > 0 && --suspects->n == 0)
		memset(suspects, 0, sizeof(MessageSet));
}

/*
 * A message that came from Kafka has been dealt with, and the process is still
 * there.  One that is repeated, or not wanted, was not under way when the server
 * crashed.
 */
void
culprit_passed(InboxWorker *worker, Partition *partition,
			   const InboxMessage *message, bool repeated)
{
	if (partition->suspects > 0 && !repeated)
		partition->suspects--;
	if (set_has(&worker->entry->suspects, message))
		culprit_acquit(worker);
}

/* Runs a statement about this worker; returns whether it found a row. */
static bool
run_about_worker(InboxWorker *worker, const char *query)
{
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		args[2] = {(Datum) 0, Int32GetDatum(worker->entry->worker)};
	bool		found;

	worker_begin_sql();
	args[0] = CStringGetTextDatum(worker->subscription->name);
	if (SPI_execute_with_args(query, 2, types, args, NULL, false, 0) < 0)
		elog(ERROR, "query failed: %s", query);
	found = SPI_processed > 0;
	/* With it, that positions of new partitions are there. */
	worker_commit_sql_durably();
	return found;
}

/* Has a subscription of that name received anything? */
#define RECEIVED_QUERY \
	"SELECT FROM inbox.message WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" UNION ALL SELECT FROM inbox.received" \
	" WHERE consumer OPERATOR(pg_catalog.=) ('@' OPERATOR(pg_catalog.||) $1)" \
	" UNION ALL SELECT FROM inbox.received" \
	" WHERE consumer OPERATOR(pg_catalog.>) ('@' OPERATOR(pg_catalog.||) $1 OPERATOR(pg_catalog.||) '/')" \
	" AND consumer OPERATOR(pg_catalog.<) ('@' OPERATOR(pg_catalog.||) $1 OPERATOR(pg_catalog.||) '0')" \
	" LIMIT 1"

/* Notes that what a crash would make the worker begin with is over. */
static void
set_crash_marker(InboxWorker *worker)
{
	(void) run_about_worker(worker,
							"INSERT INTO inbox.crash_marker VALUES ($1, $2)"
							" ON CONFLICT DO NOTHING");
	worker->crashed = false;
}

/*
 * The worker has met its partitions, or more of them, from number first on.
 * With the first ones it finds out whether the server has crashed since it last
 * worked.
 */
void
culprit_look(InboxWorker *worker, int first)
{
	bool		is_new = true;

	for (int i = first; i < worker->npartitions; i++)
	{
		Partition  *partition = worker->partitions[i];

		is_new &= partition->is_new;
		partition->began_at = partition->stored;
		partition->suspects = worker->subscription->batch_size;
	}
	if (first > 0)
		return;
	worker->crashed = !run_about_worker(worker,
										"SELECT FROM inbox.crash_marker"
										" WHERE subscription OPERATOR(pg_catalog.=) $1"
										" AND worker OPERATOR(pg_catalog.=) $2");
	if (worker->crashed && is_new && !run_about_worker(worker, RECEIVED_QUERY))
		set_crash_marker(worker);
}

/* Has all of a partition been read that was there when the server crashed? */
static bool
is_past_crash(InboxWorker *worker, Partition *partition)
{
	ConsumerPartition *at = &partition->at;
	int64		end;

	if (partition->suspects > 0 &&
		consumer_known_end(worker->consumer, at->topic, at->partition, &end) &&
		partition->at.offset >= end)
		partition->suspects = 0;
	return partition->suspects == 0 || partition->lost || partition->gone;
}

/*
 * Suspects nobody any more when everything was handled that may have been under
 * way.  Call it between transactions.
 */
void
culprit_rest(InboxWorker *worker)
{
	bool		past = true;

	if (!worker->crashed && worker->entry->suspects.n == 0)
		return;
	for (int i = 0; i < worker->npartitions; i++)
		past &= is_past_crash(worker, worker->partitions[i]);
	/* Nothing is known of what is locked. */
	if (worker->locked[0] != '\0')
		return;
	if (worker->crashed && past && worker->npartitions > 0 && worker->complete &&
		!waiting_has_old(worker))
		set_crash_marker(worker);
	if (worker->complete && partitions_lag(worker) == 0 &&
		hash_get_num_entries(worker->waiting) == 0)
		set_clear(&worker->entry->suspects);
}
