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

#include "kafka/statistics.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

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

/* Adds one broker's numbers. */
static void
add_broker(JsonbContainer *broker, ProducerStats *stats, int64 *round_trips,
		   int *nbrokers)
{
	JsonbValue *state = member(broker, "state");
	JsonbValue *rtt = member(broker, "rtt");
	int64		average = rtt && rtt->type == jbvBinary ?
	number(rtt->val.binary.data, "avg") : 0;

	stats->retries += number(broker, "txretries");
	if (state && state->type == jbvString && state->val.string.len == 2 &&
		memcmp(state->val.string.val, "UP", 2) == 0)
		stats->connected = true;
	if (average > 0)
	{
		*round_trips += average;
		(*nbrokers)++;
	}
}

/*
 * Updates stats from librdkafka's statistics.  Keeps the last round trip when
 * nothing was sent since.
 */
void
statistics_parse(const char *json, ProducerStats *stats)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "outbox statistics",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Jsonb	   *all = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
														 CStringGetDatum(json)));
	JsonbValue *brokers = member(&all->root, "brokers");
	int64		round_trips = 0;
	int			nbrokers = 0;

	stats->retries = 0;
	stats->connected = false;
	if (brokers && brokers->type == jbvBinary)
	{
		JsonbIterator *it = JsonbIteratorInit(brokers->val.binary.data);
		JsonbValue	value;
		JsonbIteratorToken token;

		while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
			if (token == WJB_VALUE && value.type == jbvBinary)
				add_broker(value.val.binary.data, stats, &round_trips, &nbrokers);
	}
	if (nbrokers > 0)
		stats->round_trip_us = round_trips / nbrokers;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}
