/*-------------------------------------------------------------------------
 *
 * header_pool.c
 *	  Pools of header lists.
 *
 * A list of three headers is five pieces of the library's memory.  To allocate,
 * fill and free them was a third of what the sending of an event cost.  But
 * the headers of events of one type differ in the first only, the id, and ids
 * are of one length.  So a list comes back with the delivery report and waits
 * in a pool of lists that are the same but for the first value, which is then
 * written over.  Nothing else of it is touched.
 *
 * Messages that have no two lists alike, since they carry the id of a trace,
 * say, take pools from each other now and then, which does no harm.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/header_pool.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include <librdkafka/rdkafka.h>

#include "core/slice.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

#define POOLS 64
#define MAX_POOLED 16384		/* lists, in all pools together */
#define TEMPLATE_SIZE 256

/* Messages that find a pool taken before one of them takes it over. */
#define MISSES_TO_EVICT 64

/*
 * The library's thread has read what is in a pool, most likely on another
 * processor.  So the memory of lists is asked for some messages ahead.
 */
#define PREFETCH_LIST 4
#define PREFETCH_HEADERS 2

/* What a list's headers are, save the first one's value. */
typedef struct HeaderTemplate
{
	int			len;
	char		data[TEMPLATE_SIZE];
} HeaderTemplate;

struct HeaderPool
{
	HeaderTemplate template;
	uint64		generation;		/* grows with each change of the template */
	int			misses;			/* since a message last fitted */
	HeaderList **lists;			/* room for MAX_POOLED; NULL before first use */
	int			nlists;
};

static bool
append(HeaderTemplate *template, const void *data, size_t len)
{
	if (len > (size_t) (TEMPLATE_SIZE - template->len))
		return false;
	memcpy(template->data + template->len, data, len);
	template->len += len;
	return true;
}

static bool
append_slice(HeaderTemplate *template, Slice slice)
{
	return slice.data == NULL || append(template, slice.data, slice.len);
}

/* Tells whether a message's headers fit into a template, and makes it. */
static bool
make_template(const Message *message, HeaderTemplate *template)
{
	template->len = 0;
	for (int i = 0; i < message->nheaders; i++)
	{
		const MessageHeader *header = &message->headers[i];
		int			lens[] = {header->name_len,
		header->value.data ? header->value.len : -1};

		if (!append(template, lens, sizeof(lens)) ||
			!append(template, header->name, header->name_len) ||
			(i > 0 && !append_slice(template, header->value)))
			return false;
	}
	return template->len > 0;
}

static bool
same_template(const HeaderTemplate *a, const HeaderTemplate *b)
{
	return a->len == b->len && memcmp(a->data, b->data, a->len) == 0;
}

/* Keeps a list that has no headers now. */
static void
keep_spare(Producer *producer, HeaderList *list)
{
	list->next_spare = producer->spare_lists;
	producer->spare_lists = list;
}

/* Gives the headers in a pool back to the library. */
static void
empty_pool(Producer *producer, HeaderPool *pool)
{
	producer->pooled_lists -= pool->nlists;
	while (pool->nlists > 0)
	{
		HeaderList *list = pool->lists[--pool->nlists];

		rd_kafka_headers_destroy(list->headers);
		keep_spare(producer, list);
	}
}

/* From now on the pool is for lists like the template. */
static void
dedicate_pool(Producer *producer, HeaderPool *pool,
			  const HeaderTemplate *template)
{
	if (pool->lists == NULL)
		pool->lists = MemoryContextAlloc(producer->context, MAX_POOLED *
										 sizeof(HeaderList *));
	empty_pool(producer, pool);
	pool->template.len = template->len;
	memcpy(pool->template.data, template->data, template->len);
	pool->generation++;
}

/* The pool for a message; NULL when there is none. */
static HeaderPool *
find_pool(Producer *producer, const Message *message)
{
	HeaderPool *pool = producer->last_pool;
	HeaderTemplate template;

	if (!make_template(message, &template))
		return NULL;
	if (pool == NULL || !same_template(&pool->template, &template))
		pool = &producer->pools[hash_bytes((unsigned char *) template.data,
										   template.len) % POOLS];
	if (!same_template(&pool->template, &template))
	{
		if (pool->lists && ++pool->misses < MISSES_TO_EVICT)
			return NULL;
		dedicate_pool(producer, pool, &template);
	}
	pool->misses = 0;
	producer->last_pool = pool;
	return pool;
}

/* Takes a list from a pool that is not empty. */
static HeaderList *
take_from_pool(Producer *producer, HeaderPool *pool)
{
	int			n = --pool->nlists;

	producer->pooled_lists--;
	if (n >= PREFETCH_LIST)
		__builtin_prefetch(pool->lists[n - PREFETCH_LIST]);
	if (n >= PREFETCH_HEADERS)
	{
		__builtin_prefetch(pool->lists[n - PREFETCH_HEADERS]->headers);
		__builtin_prefetch(pool->lists[n - PREFETCH_HEADERS]->first_value);
	}
	return pool->lists[n];
}

static void
put_into_pool(Producer *producer, HeaderList *list)
{
	list->pool->lists[list->pool->nlists++] = list;
	producer->pooled_lists++;
}

/* Is there still a pool for a list, with room? */
static bool
can_be_pooled(const Producer *producer, const HeaderList *list)
{
	return list->pool && list->generation == list->pool->generation &&
		producer->pooled_lists < MAX_POOLED;
}

/* The library's list of a message's headers. */
static rd_kafka_headers_t *
make_headers(const Message *message)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(message->nheaders);

	for (int i = 0; i < message->nheaders; i++)
	{
		const MessageHeader *header = &message->headers[i];

		rd_kafka_header_add(headers, header->name, header->name_len,
							header->value.data, header->value.len);
	}
	return headers;
}

/* A new list for a message, with a pool to come back to or NULL. */
static HeaderList *
new_list(Producer *producer, const Message *message, HeaderPool *pool)
{
	HeaderList *list = producer->spare_lists;
	const char *name;
	size_t		size;

	if (list)
		producer->spare_lists = list->next_spare;
	else
		list = MemoryContextAlloc(producer->context, sizeof(HeaderList));
	list->headers = make_headers(message);
	list->pool = pool;
	if (pool)
	{
		list->generation = pool->generation;
		(void) rd_kafka_header_get_all(list->headers, 0, &name,
									   &list->first_value, &size);
	}
	return list;
}

/* Writes the message's first value over that of a list of the same template. */
static void
set_first_value(HeaderList *list, const Message *message)
{
	Slice		value = message->headers[0].value;

	/* Const to who reads a message; this list is ours. */
	if (value.data)
		memcpy(unconstify(void *, list->first_value), value.data, value.len);
}

/*
 * Makes the producer's pools, which are empty.
 */
void
headers_create(Producer *producer)
{
	producer->pools = MemoryContextAllocZero(producer->context,
											 POOLS * sizeof(HeaderPool));
}

/*
 * Gives the library its memory back.
 */
void
headers_destroy(Producer *producer)
{
	for (int i = 0; i < POOLS; i++)
		empty_pool(producer, &producer->pools[i]);
}

/*
 * A list with the message's headers and its opaque value.  To be passed to
 * headers_keep(), or with the message to headers_delivered().  May raise an
 * error for want of memory.
 */
HeaderList *
headers_make(Producer *producer, const Message *message)
{
	HeaderPool *pool = find_pool(producer, message);
	HeaderList *list;

	if (pool && pool->nlists > 0)
	{
		list = take_from_pool(producer, pool);
		set_first_value(list, message);
	}
	else
		list = new_list(producer, message, pool);
	list->opaque = message->opaque;
	return list;
}

/*
 * Takes the list of a message that the library did not take.
 */
void
headers_keep(Producer *producer, HeaderList *list)
{
	if (can_be_pooled(producer, list))
		put_into_pool(producer, list);
	else
	{
		rd_kafka_headers_destroy(list->headers);
		keep_spare(producer, list);
	}
}

/*
 * Takes the list of a message that the library is done with, and returns the
 * message's opaque value.  Headers that have no pool go with the message.
 */
uint64
headers_delivered(Producer *producer, const rd_kafka_message_t *message)
{
	HeaderList *list = message->_private;
	rd_kafka_headers_t *headers;

	if (can_be_pooled(producer, list) &&
		rd_kafka_message_detach_headers(unconstify(rd_kafka_message_t *, message),
										&headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
		put_into_pool(producer, list);
	else
		keep_spare(producer, list);
	return list->opaque;
}
