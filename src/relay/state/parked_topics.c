/*-------------------------------------------------------------------------
 *
 * parked_topics.c
 *	  Topics and partitions that cannot be written now.
 *
 * A topic may not exist, or the relay may have no right to it, and a partition
 * may have no leader.  That may pass, so what is published for them is no dead
 * letter; but nothing else is to wait for it.  Their events are parked: stored
 * in outbox.held_event, so that the slot and all others go on (dead_letters.c).
 *
 * Each is tried again after a while, which doubles.  When that succeeds those
 * that wait are sent, in order (parked_release.c).  New ones go to the end of
 * the queue until it is empty; then the topic is parked no more.
 *
 * This is the list of them, a picture of outbox.parked_topic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/state/parked_topics.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "relay/state/event_batch.h"

#define FIRST_PROBE_MS 500
#define LAST_PROBE_MS 5000

/* To try one that takes nothing holds up the others for some seconds. */
#define SILENT_PROBE_MS 30000

#define LOAD "SELECT topic, partition, error_code, error FROM outbox.parked_topic"

#define STORE \
	"INSERT INTO outbox.parked_topic AS p (topic, partition, state, error_code, error)" \
	" VALUES ($1, $2, $3, $4, $5)" \
	" ON CONFLICT (topic, partition) DO UPDATE SET state = excluded.state," \
	" error_code = excluded.error_code, error = excluded.error"

/* NULL until there has been one. */
static HTAB *list = NULL;

/* May a row of outbox.parked_topic be missing, or say something else? */
static bool is_stored = true;

/*
 * Is there any?
 */
bool
parked_topics_any(void)
{
	return list != NULL && hash_get_num_entries(list) > 0;
}

/* Fills in the key, of which all bytes count. */
static void
make_key(Parked *key, const char *topic, int32 partition)
{
	memset(key, 0, offsetof(Parked, stored));
	strlcpy(key->topic, topic, sizeof(key->topic));
	key->partition = partition;
}

/*
 * The entry of a partition, or with WHOLE_TOPIC that of the topic; NULL when
 * it is not parked.
 */
Parked *
parked_topics_find(const char *topic, int32 partition)
{
	Parked		key;

	if (!parked_topics_any())
		return NULL;
	make_key(&key, topic, partition);
	return hash_search(list, &key, HASH_FIND, NULL);
}

/*
 * Is the topic parked as a whole, and is that not the one that is being
 * released, NULL for none?
 */
bool
parked_topics_blocks(const char *topic, const Parked *releasing)
{
	const Parked *parked = parked_topics_find(topic, WHOLE_TOPIC);

	return parked != NULL && parked != releasing;
}

/*
 * Is the topic, or one of its partitions, parked?
 */
bool
parked_topics_has_topic(const char *topic)
{
	HASH_SEQ_STATUS scan;
	Parked	   *parked;

	if (!parked_topics_any())
		return false;
	hash_seq_init(&scan, list);
	while ((parked = hash_seq_search(&scan)) != NULL)
		if (strcmp(parked->topic, topic) == 0)
		{
			hash_seq_term(&scan);
			return true;
		}
	return false;
}

/* Finds or makes an entry. */
static Parked *
enter(const char *topic, int32 partition, bool *found)
{
	HASHCTL		ctl = {.keysize = offsetof(Parked, stored),
		.entrysize = sizeof(Parked),
	.hcxt = TopMemoryContext};
	Parked		key;
	Parked	   *parked;

	if (list == NULL)
		list = hash_create("outbox parked topics", 16, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	make_key(&key, topic, partition);
	parked = hash_search(list, &key, HASH_ENTER, found);
	if (*found)
		return parked;
	parked->stored = parked->sending = parked->shown_sending = false;
	parked->asked_at = 0;
	parked->parked_at = parked->probe_at = monotonic_now();
	parked->probe_delay = FIRST_PROBE_MS;
	parked->batch_events = 1;
	parked->error[0] = parked->error_name[0] = '\0';
	return parked;
}

/*
 * Parks a topic, or one partition of it, because of an error.  Nothing changes
 * when it is parked already.
 */
Parked *
parked_topics_add(const char *topic, int32 partition, const char *error_name,
				  const char *error)
{
	bool		found;
	Parked	   *parked = enter(topic, partition, &found);

	if (found)
		return parked;
	parked_topics_fail(parked, error_name, error);
	ereport(LOG,
			(partition == WHOLE_TOPIC ?
			 errmsg("outbox relay parks events for topic \"%s\": %s", topic, error) :
			 errmsg("outbox relay parks events for partition %d of topic \"%s\": %s",
					partition, topic, error),
			 errdetail("Nothing is lost: they are sent, in order, when the topic can be written."),
			 errhint("See outbox.stat_topic; outbox.discard_all() gives them up.")));
	return parked;
}

/*
 * It could not be written, for that reason: it is tried again later.
 */
void
parked_topics_fail(Parked *parked, const char *error_name, const char *error)
{
	if (strcmp(error_name, PARKED_SILENT) == 0)
		parked->probe_delay = SILENT_PROBE_MS;
	parked->probe_at = TimestampTzPlusMilliseconds(monotonic_now(),
												   parked->probe_delay);
	parked->probe_delay = Min(2 * parked->probe_delay, LAST_PROBE_MS);
	parked->batch_events = 1;
	parked->sending = false;
	if (strcmp(parked->error, error) != 0)
		parked->stored = false;
	if (parked->error_name != error_name)
		strlcpy(parked->error_name, error_name, sizeof(parked->error_name));
	if (parked->error != error)
		strlcpy(parked->error, error, sizeof(parked->error));
	is_stored &= parked->stored && !parked->shown_sending;
}

/*
 * It seems that it can be written.
 */
void
parked_topics_open(Parked *parked)
{
	parked->sending = true;
	parked->probe_at = monotonic_now();
}

/*
 * A batch has been sent.  Others have their turn before the next.
 */
void
parked_topics_went_well(Parked *parked)
{
	parked->probe_at = monotonic_now();
	parked->probe_delay = FIRST_PROBE_MS;
	parked->batch_events = Min(2 * parked->batch_events, BATCH_EVENTS);
	is_stored &= parked->shown_sending;
}

/*
 * Nothing waits for it any more.  The row is the caller's to delete.
 */
void
parked_topics_remove(Parked *parked)
{
	ereport(LOG,
			(parked->partition == WHOLE_TOPIC ?
			 errmsg("nothing waits for topic \"%s\" any more", parked->topic) :
			 errmsg("nothing waits for partition %d of topic \"%s\" any more",
					parked->partition, parked->topic)));
	hash_search(list, parked, HASH_REMOVE, NULL);
}

/*
 * Does it wait for its whole topic, to which its events may be moved?  Those of
 * the topic come first: they may be moved to the partition, never back.
 */
static bool
is_second(const Parked *parked)
{
	return parked->partition != WHOLE_TOPIC &&
		parked_topics_find(parked->topic, WHOLE_TOPIC) != NULL;
}

/*
 * The one to try, or to go on with, that has waited longest; NULL when none is
 * due.
 */
Parked *
parked_topics_next_due(TimestampTz now)
{
	HASH_SEQ_STATUS scan;
	Parked	   *parked;
	Parked	   *next = NULL;

	if (!parked_topics_any())
		return NULL;
	hash_seq_init(&scan, list);
	while ((parked = hash_seq_search(&scan)) != NULL)
		if (parked->probe_at <= now && !is_second(parked) &&
			(next == NULL || parked->probe_at < next->probe_at))
			next = parked;
	return next;
}

/*
 * How long to wait, in ms, until one is due.
 */
long
parked_topics_wait_ms(TimestampTz now, long at_most)
{
	HASH_SEQ_STATUS scan;
	Parked	   *parked;

	if (!parked_topics_any())
		return at_most;
	hash_seq_init(&scan, list);
	while ((parked = hash_seq_search(&scan)) != NULL)
		if (!is_second(parked))
			at_most = Min(at_most,
						  TimestampDifferenceMilliseconds(now,
														  parked->probe_at));
	return at_most;
}

/*
 * Reads the list.  Needs SPI.
 */
void
parked_topics_load(void)
{
	if (SPI_execute(LOAD, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read outbox.parked_topic");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;
		Parked	   *parked = enter(SPI_getvalue(row, desc, 1),
								   DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull)),
								   &isnull);

		strlcpy(parked->error_name, SPI_getvalue(row, desc, 3),
				sizeof(parked->error_name));
		strlcpy(parked->error, SPI_getvalue(row, desc, 4), sizeof(parked->error));
		parked->parked_at = 0;
		parked->stored = true;
		parked->shown_sending = true;
	}
	is_stored = true;
}

/*
 * Does outbox.parked_topic say what the list says?
 */
bool
parked_topics_is_stored(void)
{
	return is_stored;
}

/* Writes the row of one. */
static void
store_one(Parked *parked)
{
	Oid			types[5] = {TEXTOID, INT4OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		args[5];

	args[0] = CStringGetTextDatum(parked->topic);
	args[1] = Int32GetDatum(parked->partition);
	args[2] = CStringGetTextDatum(parked->sending ? "sending" : "waiting");
	args[3] = CStringGetTextDatum(parked->error_name);
	args[4] = CStringGetTextDatum(parked->error);
	if (SPI_execute_with_args(STORE, 5, types, args, NULL, false, 0) !=
		SPI_OK_INSERT)
		elog(ERROR, "could not write outbox.parked_topic");
	parked->stored = true;
	parked->shown_sending = parked->sending;
}

/*
 * Writes what the list says and outbox.parked_topic does not.  Needs SPI.
 */
void
parked_topics_store(void)
{
	HASH_SEQ_STATUS scan;
	Parked	   *parked;

	if (is_stored || list == NULL)
		return;
	hash_seq_init(&scan, list);
	while ((parked = hash_seq_search(&scan)) != NULL)
		if (!parked->stored || parked->sending != parked->shown_sending)
			store_one(parked);
	is_stored = true;
}
