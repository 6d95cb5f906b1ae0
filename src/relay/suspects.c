/*-------------------------------------------------------------------------
 *
 * suspects.c
 *	  Topics that have refused something, and what.
 *
 * Whatever a broker refuses breaks the pipeline, and much has to be sent again.
 * So what was refused once makes us suspicious of what is like it: of events
 * that are as large, or of all if the topic refuses whatever we send.  Relays
 * tell each other of the latest ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/suspects.h"

#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

/* By topic; NULL until there has been one. */
static HTAB *suspects = NULL;

/*
 * Is there any?
 */
bool
suspects_any(void)
{
	return suspects != NULL && hash_get_num_entries(suspects) > 0;
}

/*
 * Keeps in mind what a topic has refused.  Of what it refused for its size, the
 * smallest counts.
 */
void
suspects_learn(const char *topic, const SuspectTopic *refusal)
{
	HASHCTL		ctl = {.keysize = SUSPECT_TOPIC_LEN,
		.entrysize = sizeof(SuspectTopic),
	.hcxt = TopMemoryContext};
	SuspectTopic *suspect;
	bool		found;
	int			size = refusal->size;
	int			wire_size = refusal->wire_size;

	if (suspects == NULL)
		suspects = hash_create("outbox suspect topics", 16, &ctl,
							   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	suspect = hash_search(suspects, topic, HASH_ENTER, &found);
	/* One that refused everything may be another one now. */
	if (found && size > 0 && suspect->size > 0)
	{
		size = Min(size, suspect->size);
		wire_size = Min(wire_size, suspect->wire_size);
	}
	*suspect = *refusal;
	strlcpy(suspect->name, topic, sizeof(suspect->name));
	suspect->size = size;
	suspect->wire_size = wire_size;
}

/*
 * What a topic has refused, if an event with so many bytes of payload may be
 * refused as well; else NULL.
 */
const SuspectTopic *
suspects_find(const char *topic, int size)
{
	const SuspectTopic *suspect;

	if (!suspects_any())
		return NULL;
	suspect = hash_search(suspects, topic, HASH_FIND, NULL);
	return suspect != NULL && size >= suspect->size ? suspect : NULL;
}

/*
 * The name of the error that it was refused with, in memory that lasts, as the
 * library's names do.  There are few.
 */
const char *
suspects_error_name(const SuspectTopic *suspect)
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
suspects_clear(const char *topic)
{
	if (suspects != NULL)
		hash_search(suspects, topic, HASH_REMOVE, NULL);
}

/*
 * Takes over what the relay before us has learned.
 */
void
suspects_take(const RelayHandover *handover)
{
	for (int i = 0; i < handover->nsuspects; i++)
		suspects_learn(handover->suspects[i].name, &handover->suspects[i]);
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
suspects_leave(RelayHandover *handover)
{
	HASH_SEQ_STATUS scan;
	SuspectTopic *suspect;

	handover->nsuspects = 0;
	if (!suspects_any())
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
