/*-------------------------------------------------------------------------
 *
 * statistics.c
 *	  The few numbers that we show out of librdkafka's statistics.
 *
 * The library emits them as JSON every few seconds.  Per broker we want
 * "state", "txretries" and "rtt"."avg".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "kafka/statistics.h"

/* A member of an object by name; NULL when it is not there. */
static JsonbValue *
member(JsonbContainer *object, const char *name)
{
	return getKeyJsonValueFromContainer(object, name, strlen(name), NULL);
}

/* A member that is a number; 0 when it is not there. */
static int64
number(JsonbContainer *object, const char *name)
{
	JsonbValue *value = member(object, name);

	if (value == NULL || value->type != jbvNumeric)
		return 0;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8,
											 NumericGetDatum(value->val.numeric)));
}

/* What is added up over the brokers. */
typedef struct Sums
{
	int64		retries;
	int64		round_trips;	/* of brokers that answered lately */
	int			answering;		/* how many those are */
	bool		connected;
} Sums;

/* Adds one broker's numbers. */
static void
add_broker(JsonbContainer *broker, Sums *sums)
{
	JsonbValue *state = member(broker, "state");
	JsonbValue *rtt = member(broker, "rtt");
	int64		average = 0;

	if (rtt && rtt->type == jbvBinary)
		average = number(rtt->val.binary.data, "avg");
	if (average > 0)
	{
		sums->round_trips += average;
		sums->answering++;
	}
	sums->retries += number(broker, "txretries");
	if (state && state->type == jbvString && state->val.string.len == 2 &&
		memcmp(state->val.string.val, "UP", 2) == 0)
		sums->connected = true;
}

/* Reads the JSON; raises an error when it is not JSON. */
static void
add_brokers(const char *json, Sums *sums)
{
	Jsonb	   *all = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														 CStringGetDatum(json)));
	JsonbValue *brokers = member(&all->root, "brokers");
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (brokers == NULL || brokers->type != jbvBinary)
		return;
	it = JsonbIteratorInit(brokers->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		if (token == WJB_VALUE && value.type == jbvBinary)
			add_broker(value.val.binary.data, sums);
}

/*
 * Updates stats from librdkafka's statistics.  Keeps the last round trip when
 * nothing was sent since.
 *
 * librdkafka does not escape what it writes (client.id may hold a quote), so
 * what is no JSON is passed over.  Raises no error.
 */
void
statistics_parse(const char *json, ProducerStats *stats)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox statistics",
												  ALLOCSET_DEFAULT_SIZES);
	Sums		sums = {0};

	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		add_brokers(json, &sums);
		stats->retries = Max(stats->retries, (uint64) sums.retries);
		stats->connected = sums.connected;
		if (sums.answering > 0)
			stats->round_trip_us = sums.round_trips / sums.answering;
	}
	PG_CATCH();
	{
		FlushErrorState();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
