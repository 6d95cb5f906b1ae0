/*-------------------------------------------------------------------------
 *
 * under_way.c
 *	  The messages that a worker has under way, and those that are suspect.
 *
 * They outlive the process, in shared memory; crash_suspects.c says what for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/under_way.h"

#include "common/hashfn.h"

#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
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
 * Is the message among those of which one ended a process?
 */
bool
culprit_is_listed(const InboxWorker *worker, const InboxMessage *message)
{
	return set_has(&worker->entry->suspects, message);
}

/*
 * Nobody is suspect any more.
 */
void
culprit_forget(InboxWorker *worker)
{
	set_clear(&worker->entry->suspects);
}

/*
 * A message was charged, and its handler is about to be called; or, with no
 * waiting, that has come to an end.
 */
void
charge_note(InboxWorker *worker, const Waiting *waiting)
{
	worker->charged = waiting ? waiting->partition : NULL;
	worker->charged_offset = waiting ? waiting->first_offset : 0;
}
