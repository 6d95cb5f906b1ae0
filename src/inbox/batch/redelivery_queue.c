/*-------------------------------------------------------------------------
 *
 * redelivery_queue.c
 *	  What waits behind a message that is to be tried again.
 *
 * While a message waits for its next attempt, later ones of the same key are
 * stored and wait as well.  The worker knows the keys that wait; the messages
 * are in the table only.  What is in order is the subscription's choice: a
 * key, a partition, or nothing; then each message is a key of its own, and so
 * is one that has no key.
 *
 * A partition belongs to one worker, so nobody else adds to a key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "inbox/batch/redelivery_queue.h"

#include "common/hashfn.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "inbox/batch/batch_table.h"
#include "inbox/batch/crash_suspects.h"
#include "inbox/batch/handler_backoff.h"
#include "inbox/batch/waiting_messages.h"
#include "inbox/message/message.h"
#include "inbox/process/inbox_worker.h"
#include "inbox/subscription/subscription.h"

/* Has the transaction that is running added or joined any? */
static bool unsettled = false;

/*
 * Makes the empty set.
 */
void
redelivery_queue_create(InboxWorker *worker)
{
	HASHCTL		ctl = {
		.keysize = sizeof(WaitingKey),
		.entrysize = sizeof(Waiting),
		.hcxt = TopMemoryContext,
	};

	worker->waiting = hash_create("outbox waiting messages", 256, &ctl,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Mixes bytes into a key. */
static void
mix(WaitingKey *key, const void *data, int len)
{
	key->a = hash_bytes_extended(data, len, key->a);
	key->b = hash_bytes_extended(data, len, key->b);
}

/* What the message must stay in order with. */
static WaitingKey
key_of(const InboxWorker *worker, const InboxMessage *message)
{
	WaitingKey	key = {0, 1};
	struct varlena *topic = (struct varlena *)
	DatumGetPointer(message->values[MESSAGE_TOPIC]);
	int32		partition = DatumGetInt32(message->values[MESSAGE_PARTITION]);
	Ordering	ordering = worker->subscription->ordering;

	mix(&key, VARDATA_ANY(topic), VARSIZE_ANY_EXHDR(topic));
	mix(&key, &partition, sizeof(partition));
	if (ordering == ORDERING_KEY && !message->nulls[MESSAGE_KEY])
	{
		struct varlena *bytes = PG_DETOAST_DATUM_PACKED(message->values[MESSAGE_KEY]);

		mix(&key, VARDATA_ANY(bytes), VARSIZE_ANY_EXHDR(bytes));
	}
	else if (ordering != ORDERING_PARTITION)
	{
		int64		offset = DatumGetInt64(message->values[MESSAGE_OFFSET]);

		mix(&key, &offset, sizeof(offset));
		mix(&key, "no key", strlen("no key"));
	}
	return key;
}

/*
 * What the message has to wait for, or NULL.
 */
Waiting *
redelivery_queue_find(InboxWorker *worker, const InboxMessage *message)
{
	WaitingKey	key;

	if (hash_get_num_entries(worker->waiting) == 0)
		return NULL;
	key = key_of(worker, message);
	return hash_search(worker->waiting, &key, HASH_FIND, NULL);
}

/*
 * When the message is to be tried, by monotonic_now().  The table tells the time
 * of day.  When that is further away than the pause was meant to be, the clock
 * was set back since, and the pause begins anew.
 */
TimestampTz
redelivery_queue_until(const InboxWorker *worker, const InboxMessage *message)
{
	int			attempts = DatumGetInt32(message->values[MESSAGE_ATTEMPTS]);
	int64		left;

	if (message->nulls[MESSAGE_NEXT_ATTEMPT_AT])
		return 0;
	left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   DatumGetTimestampTz(message->values[MESSAGE_NEXT_ATTEMPT_AT]));
	left = Min(left, batch_table_pause_ms(worker->subscription, attempts));
	return TimestampTzPlusMilliseconds(monotonic_now(), left);
}

/*
 * Does any such message wait?
 */
bool
redelivery_queue_has_old(InboxWorker *worker)
{
	HASH_SEQ_STATUS scan;
	Waiting    *waiting;

	hash_seq_init(&scan, worker->waiting);
	while ((waiting = hash_seq_search(&scan)) != NULL)
		if (waiting->old)
		{
			hash_seq_term(&scan);
			return true;
		}
	return false;
}

/*
 * Later messages have to wait for this one.  "tentative" as long as the
 * transaction that says so has not committed.
 */
void
redelivery_queue_add(InboxWorker *worker, Partition *partition,
					 const InboxMessage *message, bool tentative)
{
	WaitingKey	key = key_of(worker, message);
	bool		found;
	Waiting    *waiting = hash_search(worker->waiting, &key, HASH_ENTER, &found);

	if (found)
		return;
	waiting->partition = partition;
	waiting->first_offset = DatumGetInt64(message->values[MESSAGE_OFFSET]);
	waiting->earlier_offset = PG_INT64_MAX;
	waiting->due = redelivery_queue_until(worker, message);
	waiting->tentative = tentative;
	unsettled |= tentative;
	waiting->old = waiting_is_old(worker, partition, message);
	waiting->suspect = charge_is_marked(message) ||
		crash_suspects_is_suspect(worker, partition, message, true);
}

/*
 * A message is stored behind those of its key; or, after inbox.seek(), before
 * them.  The transaction that says so has not committed yet.
 */
void
redelivery_queue_join(InboxWorker *worker, const InboxMessage *message)
{
	int64		offset = DatumGetInt64(message->values[MESSAGE_OFFSET]);
	Waiting    *waiting = redelivery_queue_find(worker, message);

	if (waiting != NULL && offset < waiting->first_offset)
	{
		waiting->earlier_offset = Min(waiting->earlier_offset, offset);
		unsettled = true;
	}
}

/*
 * A transaction has ended: keeps what it has added, or forgets it.
 */
void
redelivery_queue_settle(InboxWorker *worker, bool committed)
{
	HASH_SEQ_STATUS scan;
	Waiting    *waiting;

	if (!unsettled)
		return;
	unsettled = false;
	hash_seq_init(&scan, worker->waiting);
	while ((waiting = hash_seq_search(&scan)) != NULL)
	{
		if (committed && waiting->earlier_offset < waiting->first_offset)
		{
			waiting->first_offset = waiting->earlier_offset;
			waiting->due = 0;
		}
		waiting->earlier_offset = PG_INT64_MAX;
		if (!waiting->tentative)
			continue;
		if (committed)
			waiting->tentative = false;
		else
			(void) hash_search(worker->waiting, &waiting->key, HASH_REMOVE, NULL);
	}
}

/*
 * When the next message is to be tried; some time that is over when any is to be
 * now, DT_NOEND when none waits.
 */
TimestampTz
redelivery_queue_due(InboxWorker *worker)
{
	HASH_SEQ_STATUS scan;
	Waiting    *waiting;
	TimestampTz due = DT_NOEND;
	TimestampTz now;

	if (hash_get_num_entries(worker->waiting) == 0)
		return due;
	now = monotonic_now();
	hash_seq_init(&scan, worker->waiting);
	while ((waiting = hash_seq_search(&scan)) != NULL)
	{
		due = Min(due, waiting->due);
		if (due <= now)
		{
			hash_seq_term(&scan);
			break;
		}
	}
	return due;
}

/* Orders keys by the offset of their first message. */
static int
compare_keys(const void *a, const void *b)
{
	const Waiting *x = *(Waiting *const *) a;
	const Waiting *y = *(Waiting *const *) b;

	return x->first_offset < y->first_offset ? -1 :
		x->first_offset > y->first_offset;
}

/* Orders keys by how long they are due. */
static int
compare_due(const void *a, const void *b)
{
	const Waiting *x = *(Waiting *const *) a;
	const Waiting *y = *(Waiting *const *) b;

	return x->due < y->due ? -1 : x->due > y->due;
}

/*
 * The keys whose pause is over, at most max; the oldest first.  When only one of
 * them may be tried, it is not always the same one.  Returns their number.
 */
int
redelivery_queue_collect_due(InboxWorker *worker, Waiting **keys, int max)
{
	TimestampTz now = monotonic_now();
	HASH_SEQ_STATUS scan;
	Waiting    *waiting;
	int			n = 0;

	hash_seq_init(&scan, worker->waiting);
	while ((waiting = hash_seq_search(&scan)) != NULL)
	{
		if (waiting->due > now)
			continue;
		keys[n++] = waiting;
		if (n == max)
		{
			hash_seq_term(&scan);
			break;
		}
	}
	qsort(keys, n, sizeof(Waiting *),
		  handler_backoff_is_backing_off(worker) ? compare_due : compare_keys);
	return n;
}

/*
 * Does so much wait that nothing more should be fetched?  Until clearly less
 * does, so that it is not now this and now that.
 */
bool
redelivery_queue_is_full(InboxWorker *worker)
{
	long		n = hash_get_num_entries(worker->waiting);

	worker->full = n >= (worker->full ? WAITING_LIMIT / 10 * 9 : WAITING_LIMIT);
	return worker->full;
}
