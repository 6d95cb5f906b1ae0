/*-------------------------------------------------------------------------
 *
 * suspect_topics.c
 *	  Topics that have refused something, and what.
 *
 * Whatever a broker refuses breaks the pipeline, and much has to be sent again.
 * So what was refused once makes us suspicious of what is like it: of events
 * that are as large, that have no key either, or of all if the topic refuses
 * whatever we send, or for reasons that we do not know.  Relays tell each other
 * of the latest ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/state/suspect_topics.h"

#include <limits.h>

#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "registry/relay_values.h"

/* More topics than that do not refuse something again and again. */
#define MAX_SUSPECTS 256

/* By topic; NULL until there has been one. */
static HTAB *suspects = NULL;

/* Is one of them noted as taken? */
static bool any_taken = false;

/*
 * Is there any?
 */
bool
suspect_topics_any(void)
{
	return suspects != NULL && hash_get_num_entries(suspects) > 0;
}

/* Forgets the topic whose refusal is the oldest. */
static void
forget_oldest(void)
{
	HASH_SEQ_STATUS scan;
	SuspectTopic *suspect;
	SuspectTopic *oldest = NULL;

	hash_seq_init(&scan, suspects);
	while ((suspect = hash_seq_search(&scan)) != NULL)
		if (oldest == NULL || suspect->refused_at < oldest->refused_at)
			oldest = suspect;
	suspect_topics_clear(oldest->name);
}

/*
 * Keeps in mind what a topic has refused.  Of what it refused for its size, the
 * smallest counts.
 */
void
suspect_topics_learn(const char *topic, const SuspectTopic *refusal)
{
	HASHCTL		ctl = {.keysize = SUSPECT_TOPIC_LEN,
		.entrysize = sizeof(SuspectTopic),
	.hcxt = TopMemoryContext};
	SuspectTopic *suspect;
	SuspectTopic before = {.size = INT_MAX,.wire_size = INT_MAX};
	bool		found;

	if (suspects == NULL)
		suspects = hash_create("outbox suspect topics", 16, &ctl,
							   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	if (hash_get_num_entries(suspects) >= MAX_SUSPECTS &&
		hash_search(suspects, topic, HASH_FIND, NULL) == NULL)
		forget_oldest();
	suspect = hash_search(suspects, topic, HASH_ENTER, &found);
	/* One that refused everything may be another one now. */
	if (found && suspect->size > 0 && refusal->size > 0)
		before = *suspect;
	*suspect = *refusal;
	strlcpy(suspect->name, topic, sizeof(suspect->name));
	suspect->size = Min(refusal->size, before.size);
	suspect->wire_size = Min(refusal->wire_size, before.wire_size);
	suspect->taken = false;
	suspect->single |= before.single;
	suspect->keyless |= before.keyless;
	/* What is refused unasked has the error of what was as large. */
	if (refusal->size == INT_MAX && before.size < INT_MAX)
	{
		strlcpy(suspect->error_name, before.error_name, sizeof(suspect->error_name));
		strlcpy(suspect->error, before.error, sizeof(suspect->error));
	}
}

/*
 * What a topic has refused, if an event with so many bytes of payload, and with
 * or without a key, may be refused as well; else NULL.
 */
const SuspectTopic *
suspect_topics_find(const char *topic, int size, bool has_key)
{
	const SuspectTopic *suspect;

	if (!suspect_topics_any())
		return NULL;
	suspect = hash_search(suspects, topic, HASH_FIND, NULL);
	if (suspect == NULL)
		return NULL;
	return size >= suspect->size || suspect->single ||
		(suspect->keyless && !has_key) ? suspect : NULL;
}

/*
 * The name of the error that it was refused with, in memory that lasts, as the
 * library's names do.  There are few.
 */
const char *
suspect_topics_error_name(const SuspectTopic *suspect)
{
	static List *names = NIL;
	MemoryContext old;
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), suspect->error_name) == 0)
		return lfirst(lc);
	old = MemoryContextSwitchTo(TopMemoryContext);
	names = lappend(names, pstrdup(suspect->error_name));
	MemoryContextSwitchTo(old);
	return llast(names);
}

/*
 * The topic is not what we thought.
 */
void
suspect_topics_clear(const char *topic)
{
	if (suspects != NULL)
		hash_search(suspects, topic, HASH_REMOVE, NULL);
}

/*
 * The topic may not be what we thought, if what was taken is committed.
 */
void
suspect_topics_note_taken(const char *topic)
{
	SuspectTopic *suspect = hash_search(suspects, topic, HASH_FIND, NULL);

	if (suspect != NULL)
		suspect->taken = any_taken = true;
}

/*
 * What was taken is committed.  Before that, a relay that starts over must know
 * what was refused behind it.
 */
void
suspect_topics_clear_taken(void)
{
	HASH_SEQ_STATUS scan;
	SuspectTopic *suspect;

	if (!any_taken)
		return;
	any_taken = false;
	hash_seq_init(&scan, suspects);
	while ((suspect = hash_seq_search(&scan)) != NULL)
		if (suspect->taken)
			hash_search(suspects, suspect->name, HASH_REMOVE, NULL);
}

/*
 * Takes over what the relay before us has learned.
 */
void
suspect_topics_take(const RelayHandover *handover)
{
	for (int i = 0; i < handover->nsuspects; i++)
		suspect_topics_learn(handover->suspects[i].name, &handover->suspects[i]);
}

/* Puts one in the place of the oldest, if it is later than that. */
static void
replace_oldest(RelayHandover *handover, const SuspectTopic *suspect)
{
	SuspectTopic *oldest = &handover->suspects[0];

	for (int i = 1; i < HANDOVER_SUSPECTS; i++)
		if (handover->suspects[i].refused_at < oldest->refused_at)
			oldest = &handover->suspects[i];
	if (suspect->refused_at > oldest->refused_at)
		*oldest = *suspect;
}

/*
 * Leaves the latest to the next relay.
 */
void
suspect_topics_leave(RelayHandover *handover)
{
	HASH_SEQ_STATUS scan;
	SuspectTopic *suspect;

	handover->nsuspects = 0;
	if (!suspect_topics_any())
		return;
	hash_seq_init(&scan, suspects);
	while ((suspect = hash_seq_search(&scan)) != NULL)
	{
		if (handover->nsuspects < HANDOVER_SUSPECTS)
			handover->suspects[handover->nsuspects++] = *suspect;
		else
			replace_oldest(handover, suspect);
	}
}
