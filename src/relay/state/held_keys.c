/*-------------------------------------------------------------------------
 *
 * held_keys.c
 *	  The keys whose events wait behind a dead letter.
 *
 * A key is that of one topic: the same key elsewhere goes its own way.  It is
 * "blocked" while there is a dead letter in front; afterwards it is held still,
 * until those who waited are sent, since nothing may overtake them.
 *
 * An in-memory picture of outbox.dead_letter and outbox.held_event, and what is
 * about to be written there.  No I/O.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/state/held_keys.h"

#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "core/slice.h"
#include "relay/state/parked_topics.h"

typedef struct KeyName
{
	const char *topic;
	Slice		key;
} KeyName;

typedef struct HeldKey
{
	KeyName		name;			/* hash key */
	bool		blocked;
	bool		fresh;			/* it was not held before it was blocked */
	uint64		after;			/* one more than the number of the event that
								 * blocks it, in the ledger; 0 when that one
								 * was stored before */
} HeldKey;

static HTAB *keys = NULL;		/* NULL until there has been one */

static uint32
hash_name(const void *key, Size keysize)
{
	const KeyName *name = key;

	return hash_combine(hash_bytes((const unsigned char *) name->topic,
								   strlen(name->topic)),
						hash_bytes((const unsigned char *) name->key.data,
								   name->key.len));
}

static int
compare_names(const void *left, const void *right, Size keysize)
{
	const KeyName *a = left;
	const KeyName *b = right;

	return !(a->key.len == b->key.len &&
			 memcmp(a->key.data, b->key.data, a->key.len) == 0 &&
			 strcmp(a->topic, b->topic) == 0);
}

static HeldKey *
look_up(const char *topic, Slice key)
{
	KeyName		name = {topic, key};

	if (!held_keys_any())
		return NULL;
	return hash_search(keys, &name, HASH_FIND, NULL);
}

/* Takes an entry out. */
static void
forget(HeldKey *held)
{
	KeyName		name = held->name;

	hash_search(keys, &name, HASH_REMOVE, NULL);
	pfree((char *) name.topic);
	pfree((char *) name.key.data);
}

/*
 * Forgets all keys.
 */
void
held_keys_clear(void)
{
	HASH_SEQ_STATUS scan;
	HeldKey    *held;

	if (keys == NULL)
		return;
	hash_seq_init(&scan, keys);
	while ((held = hash_seq_search(&scan)) != NULL)
		forget(held);
}

/*
 * Is there any held key?
 */
bool
held_keys_any(void)
{
	return keys != NULL && hash_get_num_entries(keys) > 0;
}

/*
 * Must events of the key wait?
 */
bool
held_keys_contain(const char *topic, Slice key)
{
	return look_up(topic, key) != NULL;
}

/*
 * Is there a dead letter in front of the key?
 */
bool
held_keys_blocked(const char *topic, Slice key)
{
	HeldKey    *held = look_up(topic, key);

	return held != NULL && held->blocked;
}

/*
 * Holds a key.  "after" is one more than the number, in the ledger, of the
 * event that blocks it; 0 when that one is stored.
 */
void
held_keys_add(const char *topic, Slice key, bool blocked, uint64 after)
{
	HASHCTL		ctl = {.keysize = sizeof(KeyName),
		.entrysize = sizeof(HeldKey),
		.hash = hash_name,
		.match = compare_names,
	.hcxt = TopMemoryContext};
	HeldKey    *held = look_up(topic, key);

	if (held == NULL)
	{
		KeyName		name;
		char	   *copy = MemoryContextAlloc(TopMemoryContext, key.len + 1);

		if (keys == NULL)
			keys = hash_create("outbox held keys", 64, &ctl,
							   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
							   HASH_CONTEXT);
		memcpy(copy, key.data, key.len);
		copy[key.len] = '\0';
		name.topic = MemoryContextStrdup(TopMemoryContext, topic);
		name.key.data = copy;
		name.key.len = key.len;
		held = hash_search(keys, &name, HASH_ENTER, NULL);
		held->name = name;
		held->blocked = false;
		held->fresh = blocked;
		held->after = 0;
	}
	if (blocked && !held->blocked)
	{
		held->blocked = true;
		held->after = after;
	}
}

/*
 * Lets a key go.
 */
void
held_keys_remove(const char *topic, Slice key)
{
	HeldKey    *held = look_up(topic, key);

	if (held)
		forget(held);
}

/*
 * Events of that number and later ones will be sent again: undoes what they
 * did to keys.
 */
void
held_keys_rewind(uint64 number)
{
	HASH_SEQ_STATUS scan;
	HeldKey    *held;

	if (!held_keys_any())
		return;
	hash_seq_init(&scan, keys);
	while ((held = hash_seq_search(&scan)) != NULL)
	{
		if (!held->blocked || held->after <= number)
			continue;
		if (held->fresh)
			forget(held);
		else
			held->blocked = false;
	}
}

/*
 * No key is known to be blocked: the caller blocks those that are.
 */
void
held_keys_unblock_all(void)
{
	HASH_SEQ_STATUS scan;
	HeldKey    *held;

	if (!held_keys_any())
		return;
	hash_seq_init(&scan, keys);
	while ((held = hash_seq_search(&scan)) != NULL)
	{
		held->blocked = false;
		held->fresh = false;
		held->after = 0;
	}
}

/*
 * There is a dead letter in front of the key, if it is held.
 */
void
held_keys_block(const char *topic, Slice key)
{
	HeldKey    *held = look_up(topic, key);

	if (held)
		held->blocked = true;
}

/*
 * Finds a held key that nothing blocks any more, of a topic that can be
 * written; false when there is none.
 * Topic and key live until it is removed.
 */
bool
held_keys_next_free(const char **topic, Slice *key)
{
	HASH_SEQ_STATUS scan;
	HeldKey    *held;

	if (!held_keys_any())
		return false;
	hash_seq_init(&scan, keys);
	while ((held = hash_seq_search(&scan)) != NULL)
		if (!held->blocked && !parked_topics_has_topic(held->name.topic))
		{
			*topic = held->name.topic;
			*key = held->name.key;
			hash_seq_term(&scan);
			return true;
		}
	return false;
}
