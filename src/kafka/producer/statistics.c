/*-------------------------------------------------------------------------
 *
 * statistics.c
 *	  The few numbers that we show out of librdkafka's statistics.
 *
 * The library emits them as JSON every few seconds.  Per broker we want
 * "txretries" and "rtt"."avg".  Most of the text, megabytes where there are
 * thousands of partitions, is about topics, and comes behind what is about
 * brokers, where a partition is a short line.  So the text is read where it is,
 * and only so far.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/statistics.h"

#include "kafka/producer/producer.h"

#define BROKERS "\"brokers\":"

/* How deep in "brokers" the members are: of a broker, and of its "rtt". */
#define BROKER_DEPTH 2
#define AVERAGE_DEPTH 3

/* Where reading is. */
typedef struct JsonScan
{
	const char *next;
	int			depth;			/* objects that are open */
	const char *name;			/* of the last member */
	int			name_len;
	bool		in_rtt;			/* the last member of a broker is that */
} JsonScan;

/* What is added up over the brokers. */
typedef struct Sums
{
	int64		retries;
	int64		round_trips;	/* of brokers that answered lately */
	int			answering;		/* how many those are */
} Sums;

static bool
is_named(const JsonScan *scan, const char *name)
{
	return scan->name_len == strlen(name) &&
		memcmp(scan->name, name, scan->name_len) == 0;
}

/* Passes over a string, which may name a member; false when it has no end. */
static bool
pass_string(JsonScan *scan)
{
	const char *begin = scan->next + 1;
	const char *end = strchr(begin, '"');

	if (end == NULL)
		return false;
	scan->next = end + 1;
	if (*scan->next != ':')
		return true;
	scan->name = begin;
	scan->name_len = end - begin;
	if (scan->depth == BROKER_DEPTH)
		scan->in_rtt = is_named(scan, "rtt");
	return true;
}

/* Takes a number, or passes over whatever else stands there. */
static void
take_number(JsonScan *scan, Sums *sums)
{
	char	   *end;
	int64		value = strtoi64(scan->next, &end, 10);

	if (end == scan->next)
	{
		scan->next++;
		return;
	}
	scan->next = end;
	if (scan->depth == BROKER_DEPTH && is_named(scan, "txretries"))
		sums->retries += value;
	if (scan->depth == AVERAGE_DEPTH && scan->in_rtt && value > 0 &&
		is_named(scan, "avg"))
	{
		sums->round_trips += value;
		sums->answering++;
	}
}

/* Reads what is about brokers; false when it does not come to an end. */
static bool
add_brokers(const char *json, Sums *sums)
{
	JsonScan	scan = {.next = strstr(json, BROKERS),.name = json};

	if (scan.next == NULL)
		return false;
	scan.next += strlen(BROKERS);
	do
	{
		switch (*scan.next)
		{
			case '\0':
				return false;
			case '{':
				scan.depth++;
				scan.next++;
				break;
			case '}':
				scan.depth--;
				scan.next++;
				break;
			case '"':
				if (!pass_string(&scan))
					return false;
				break;
			case ' ':
			case ',':
			case ':':
				scan.next++;
				break;
			default:
				take_number(&scan, sums);
		}
	} while (scan.depth > 0);
	return true;
}

/*
 * Updates stats from librdkafka's statistics.  Keeps the last round trip when
 * nothing was sent since.
 *
 * librdkafka does not escape what it writes (client.id may hold a quote), so
 * what is not as expected is passed over.
 */
void
statistics_parse(const char *json, ProducerStats *stats)
{
	Sums		sums = {0};

	if (!add_brokers(json, &sums))
		return;
	stats->retries = Max(stats->retries, (uint64) sums.retries);
	if (sums.answering > 0)
		stats->round_trip_us = sums.round_trips / sums.answering;
}
