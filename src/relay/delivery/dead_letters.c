/*-------------------------------------------------------------------------
 *
 * dead_letters.c
 *	  Events that Kafka refuses for good, those that wait behind them, and those
 *	  whose topic cannot be written now.
 *
 * Such an event is set aside: in memory at first, since it is found inside a
 * decoding callback, where nothing can be written.  To the ledger it counts as
 * acknowledged.  The rule that keeps it from being lost: before anything that
 * follows from the ledger leaves this process - a slot's position, a watermark,
 * what is handed over to the next relay, the progress of a replay - whatever
 * the ledger has passed is written to outbox.dead_letter, durably.  A crash
 * before that finds everything as it was, and the event is refused again.
 *
 * What the ledger has not passed stays in memory: when the pipeline breaks, it
 * is forgotten, as it will be sent and refused again.
 *
 * With outbox.on_dead_letter = hold, later events of the same topic and key are set
 * aside too, into outbox.held_event, so that they hold back neither the slot
 * nor other keys.
 *
 * Events for what is parked (parked_topics.c) are set aside into
 * outbox.held_event as well, so that they hold back nothing but others of the
 * same topic or partition.
 *
 * After a crash the relay may meet events again that are stored already, as
 * the watermark does not show them yet.  Their ids are read at the start.  One
 * that waits goes to the end of the queue then, since those in front of it may
 * have come again too.
 *
 * When deliveries are exact, the ledger learns of a whole Kafka transaction at
 * once.  All that was set aside is written before that is committed, or when
 * the relay starts over because of a refused event, so that the next one leaves
 * it out.  Then such events are sure to be met again, and a key is held from
 * there on only: what comes before has not been delivered yet.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/dead_letters.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "core/background_worker.h"
#include "core/guc.h"
#include "core/slice.h"
#include "event/event.h"
#include "event/topic_name.h"
#include "registry/relay_values.h"
#include "relay/delivery/destination.h"
#include "relay/delivery/sender.h"
#include "relay/process/ending.h"
#include "relay/state/held_keys.h"
#include "relay/state/ledger.h"
#include "relay/state/parked_topics.h"
#include "relay/state/relay.h"
#include "relay/state/send_requests.h"
#include "relay/state/set_aside.h"
#include "relay/table/dead_letter_table.h"

/* What may be set aside before it must be written, wherever we are. */
#define MAX_PENDING_BYTES (16 * 1024 * 1024)

#define INITIAL_SIZE 64

/* In the order of numbers; strings are in the context. */
static SetAside *pending = NULL;
static int	npending = 0;
static int	pending_size = 0;
static MemoryContext pending_context = NULL;

static HTAB *stored = NULL;		/* by id; NULL when there are none */

/* Has anything been set aside that was not stored before? */
static bool any_is_new = false;

static bool writing = false;

/*
 * Reads what former relays stored.  To be called before anything is sent, and
 * when the watermark is what we go on from.  Runs a transaction of its own.
 */
void
dead_letters_start(Relay *relay)
{
	worker_begin_sql();
	parked_topics_load();
	stored = dead_letter_table_load_stored();
	dead_letter_table_load_keys(relay->exact != NULL);
	worker_commit_sql();
}

/*
 * Makes room for one more and returns it.  Events of new topics may come later
 * than others behind them; see new_topics.c.
 */
static SetAside *
new_pending(uint64 number)
{
	int			at = npending;

	if (pending_context == NULL)
		pending_context = AllocSetContextCreate(TopMemoryContext,
												"outbox events set aside",
												ALLOCSET_DEFAULT_SIZES);
	if (pending == NULL)
	{
		pending_size = INITIAL_SIZE;
		pending = MemoryContextAlloc(pending_context,
									 pending_size * sizeof(SetAside));
	}
	else if (npending == pending_size)
	{
		pending_size *= 2;
		pending = repalloc_huge(pending, pending_size * sizeof(SetAside));
	}
	while (at > 0 && pending[at - 1].number > number)
		at--;
	memmove(&pending[at + 1], &pending[at], (npending - at) * sizeof(SetAside));
	npending++;
	return &pending[at];
}

/* Forgets all but the first so many. */
static void
truncate_pending(int count)
{
	npending = count;
	if (count > 0 || pending == NULL)
		return;
	pending = NULL;
	MemoryContextReset(pending_context);
}

static char *
copy_slice(Slice slice)
{
	char	   *copy;

	if (slice.data == NULL)
		return NULL;
	copy = MemoryContextAlloc(pending_context, slice.len + 1);
	memcpy(copy, slice.data, slice.len);
	copy[slice.len] = '\0';
	return copy;
}

/* The event's topic, even if it is too long to be one. */
static char *
copy_topic(const Event *event)
{
	char		topic[TOPIC_MAX_LEN + 1];

	if (topic_name_of(event, topic))
		return MemoryContextStrdup(pending_context, topic);
	return copy_slice(event->topic.data ? event->topic : event->aggregate_type);
}

/* Sets an event aside.  To the ledger it is done with. */
static SetAside *
remember(Relay *relay, const Event *event, uint64 number)
{
	SetAside   *item = new_pending(number);

	memset(item, 0, sizeof(SetAside));
	item->number = number;
	item->resend = deadletter_resend();
	item->replay = event->replay;
	item->id = event->id;
	item->event_id = event->event_id;
	item->xid = event->xid;
	item->chunk = event->chunk;
	item->database_id = event->database_id;
	item->topic = copy_topic(event);
	item->key = copy_slice(event_key(event));
	item->before = ledger_position(relay->ledger);
	ledger_acknowledge(relay->ledger, number);
	relay->set_aside++;
	return item;
}

/*
 * When memory is full in the middle of a transaction, which may be a large
 * one, the next relay goes on from there: this one writes as it leaves.
 */
static void
check_memory(Relay *relay)
{
	if (MemoryContextMemAllocated(pending_context, true) < MAX_PENDING_BYTES)
		return;
	sender_drain(relay);
	if (!relay->broken)
		ending_restart();
}

/* The stored event that this one is; NULL when it is none. */
static StoredEvent *
find_stored(const Event *event)
{
	return stored ? hash_search(stored, &event->id, HASH_FIND, NULL) : NULL;
}

/* A stored event comes again: from here on its key is held, if it was. */
static void
hold_again(const Event *event, const StoredEvent *known)
{
	char		topic[TOPIC_MAX_LEN + 1];

	if (!known->holds && (!known->waits || known->parked))
		return;
	if (!topic_name_of(event, topic))
		topic[0] = '\0';
	held_keys_add(topic, event_key(event), known->holds, 0);
	resend_look();
}

/*
 * More is about to be sent.  If the relay before this one ended with an error,
 * that may be because it could not store what was set aside.  Then nothing is
 * sent behind that before it is stored, or each relay would send it again.
 * May end the process, which stores it as it leaves, if it can be stored, or
 * break the pipeline.
 */
void
dead_letters_before_more(Relay *relay)
{
	if (!ending_is_cautious() || npending == 0)
		return;
	sender_drain(relay);
	if (!relay->broken)
		ending_restart();
}

/*
 * An event was left out of the stream, since a relay before this one had dealt
 * with it.  Perhaps by storing it: then its key is held.
 */
void
dead_letters_met(const Event *event)
{
	StoredEvent *known = find_stored(event);

	if (known)
		hold_again(event, known);
}

/* Sets an event aside that waits for its topic. */
static void
park(Relay *relay, const Event *event, uint64 number, int partition)
{
	SetAside   *item = remember(relay, event, number);

	item->waits = item->parked = true;
	item->partition = partition;
	any_is_new = true;
	check_memory(relay);
}

/* A stored event comes again, in the stream. */
static void
meet_again(Relay *relay, const Event *event, uint64 number, StoredEvent *known)
{
	SetAside   *item;

	hold_again(event, known);
	if (!known->waits || !any_is_new)
	{
		ledger_acknowledge(relay->ledger, number);
		relay->set_aside++;
		return;
	}

	/* One in front of it may have been set aside, behind it. */
	item = remember(relay, event, number);
	item->waits = item->again = true;
	check_memory(relay);
}

/*
 * Must the event not be sent now, because it waits behind a dead letter or for
 * its topic, or is stored already?  Then takes care of it.
 */
bool
dead_letters_set_aside(Relay *relay, const Event *event, uint64 number)
{
	char		topic[TOPIC_MAX_LEN + 1];
	Slice		key = event_key(event);
	StoredEvent *known;

	if (!stored && !held_keys_any() && !parked_topics_any())
		return false;
	if (deadletter_resend() == RESEND_NONE && !event->replay)
	{
		if ((known = find_stored(event)) != NULL)
		{
			meet_again(relay, event, number, known);
			return true;
		}
		if (!topic_name_of(event, topic))
			topic[0] = '\0';
		if (key.data != NULL && held_keys_contain(topic, key))
		{
			remember(relay, event, number)->waits = true;
			any_is_new = true;
			check_memory(relay);
			return true;
		}
	}
	if (deadletter_resend() == RESEND_PARKED && key.data != NULL && !event->replay &&
		topic_name_of(event, topic) && held_keys_contain(topic, key))
	{
		/* From now on it waits with the others of its key. */
		remember(relay, event, number)->waits = true;
		return true;
	}
	if (!parked_topics_any() || !topic_name_of(event, topic) ||
		!parked_topics_blocks(topic, relay->releasing))
		return false;
	park(relay, event, number, WHOLE_TOPIC);
	return true;
}

/*
 * The topic of the event, which has that number in the ledger, or its
 * partition, cannot be written now, for the failure that is noted.
 */
void
dead_letters_park(Relay *relay, const Event *event, uint64 number,
				  const Destination *destination)
{
	Parked	   *parked = parked_topics_add(destination->name, destination->partition,
										   relay->failure_name, relay->failure_text);

	if (parked == relay->releasing)
	{
		parked_topics_fail(parked, relay->failure_name, relay->failure_text);
		relay->releasing = NULL;
	}
	strlcpy(relay->status.error, relay->failure_text, RELAY_ERROR_LEN);
	relay->status.error_at = GetCurrentTimestamp();
	park(relay, event, number, destination->partition);
}

/*
 * Kafka refuses the event, which has that number in the ledger, for good.
 * error_name must last.
 */
void
dead_letters_add(Relay *relay, const Event *event, uint64 number,
				 const char *error_name, const char *error)
{
	SetAside   *item = remember(relay, event, number);

	item->error_name = error_name;
	item->error = MemoryContextStrdup(pending_context, error);
	item->holds = outbox_on_dead_letter == DEAD_LETTER_HOLD && !event->replay &&
		item->key != NULL && deadletter_resend() != RESEND_FAILED;
	if (item->holds)
		held_keys_add(item->topic, event_key(event), true, number + 1);
	check_memory(relay);
}

/*
 * The pipeline is broken: forgets what will be sent again.
 */
void
dead_letters_rewind(Relay *relay)
{
	uint64		next = ledger_position(relay->ledger).next;
	int			count = npending;

	while (count > 0 && pending[count - 1].number >= next)
		count--;
	truncate_pending(count);
	held_keys_rewind(next);
}

/* How many of those that were set aside has the ledger passed? */
static int
count_passed(const Relay *relay)
{
	uint64		next = relay->exact ? PG_UINT64_MAX :
	ledger_position(relay->ledger).next;
	int			count = 0;

	while (count < npending && pending[count].number < next)
		count++;
	return count;
}

/*
 * Writes what was set aside and the ledger has passed, in the current
 * transaction, which the caller commits.  Needs SPI.
 */
void
dead_letters_write(Relay *relay)
{
	int			count = count_passed(relay);
	MemoryContext context;

	parked_topics_store();
	if (count == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "outbox dead letter",
									ALLOCSET_SMALL_SIZES);
	writing = true;
	for (int i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		dead_letter_table_write_one(&pending[i]);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	writing = false;
	MemoryContextDelete(context);
	memmove(pending, pending + count, (npending - count) * sizeof(SetAside));
	truncate_pending(npending - count);
}

/* The same, and commits, durably. */
static void
write_and_commit(Relay *relay)
{
	writing = true;
	dead_letters_write(relay);
	writing = true;
	worker_commit_sql_durably();
	writing = false;
	ending_proved();
}

/*
 * Writes what was set aside and the ledger has passed, durably, in a
 * transaction of its own.  To be called between records before anything that
 * the ledger says is passed on.
 */
void
dead_letters_store(Relay *relay)
{
	if ((npending == 0 || count_passed(relay) == 0) && parked_topics_is_stored())
		return;
	worker_begin_sql();
	write_and_commit(relay);
}

/*
 * Is anything set aside and not stored yet?
 */
bool
dead_letters_any_pending(void)
{
	return npending > 0;
}

/*
 * What is in front of all that is not stored yet: how far acknowledgements have
 * come there, and the id of the first event that is not stored.  Returns false
 * when everything is stored.
 */
bool
dead_letters_unstored(LedgerPosition *position, int64 *id)
{
	if (npending == 0)
		return false;
	*position = pending[0].before;
	*id = pending[0].id;
	return true;
}

/*
 * The same as the process ends, from wherever that happens, a decoding
 * callback included.  Returns false when it cannot be done: then nothing may
 * be handed over.
 */
bool
dead_letters_leave(Relay *relay)
{
	if (relay->exact == NULL)
		dead_letters_rewind(relay);
	if (npending == 0 && parked_topics_is_stored())
		return !writing;
	if (writing || !dead_letter_table_begin_at_exit())
		return false;
	write_and_commit(relay);
	return true;
}
