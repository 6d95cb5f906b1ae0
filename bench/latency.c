/*-------------------------------------------------------------------------
 *
 * latency.c
 *	  How long an event takes from its commit to a Kafka consumer.
 *
 *	  latency BOOTSTRAP TOPIC RATE SECONDS EVENTS STATEMENT
 *
 * Threads publish RATE events a second, each in a transaction of its own,
 * through libpq, whose environment says where.  The main thread consumes
 * TOPIC.  All read the same clock.  EVENTS is a file of lines "key <tab>
 * payload", used over and over; the payload is a JSON object, to which a number
 * is added that tells run and event.  STATEMENT publishes the key $1 and the payload $2.
 *
 * Prints the rate that was reached, then median, 99th percentile and maximum
 * in milliseconds, first since COMMIT was sent, then since it returned.  The
 * first second does not count.
 *
 *-------------------------------------------------------------------------
 */
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 10000		/* for whatever has to come */
#define WARM_UP_SECONDS 1
#define COMMAND_SIZE 100000
#define MAX_EVENTS 100000
#define MAX_THREADS 100
#define MAX_SAMPLES 1000000
#define RATE_OF_THREAD 500		/* events a second, at most */
#define NUMBER "{\"n\": "		/* how a payload begins */

typedef struct Sample
{
	double		sent;			/* when COMMIT was sent */
	double		returned;		/* when it returned */
	double		arrived;		/* at the consumer */
} Sample;

typedef struct Event
{
	char	   *key;
	char	   *payload;		/* without what it begins with */
} Event;

static Sample *samples;
static int	nsamples;
static int	rate;
static const char *topic;
static const char *statement;
static Event events[MAX_EVENTS];
static int	nevents;
static int	nthreads;
static int	first_number;		/* of the events of this run */
static double started;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "latency: %s: %s\n", what, why);
	exit(1);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void
wait_until(double when)
{
	struct timespec time = {(time_t) when, (when - (time_t) when) * 1e9};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static void
read_events(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char		key[100],
				payload[COMMAND_SIZE / 2];

	if (file == NULL)
		die(path, "cannot be opened");
	while (nevents < MAX_EVENTS && fscanf(file, "%99[^\t]\t{%49999[^\n]\n", key, payload) == 2)
	{
		events[nevents].key = strdup(key);
		events[nevents++].payload = strdup(payload);
	}
	if (nevents == 0)
		die(path, "has no events");
	fclose(file);
}

static void
execute(PGconn *connection, const char *command)
{
	PGresult   *result = PQexec(connection, command);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		die(command, PQerrorMessage(connection));
	PQclear(result);
}

static void *
publish(void *arg)
{
	char		command[COMMAND_SIZE];
	PGconn	   *connection = PQconnectdb("");

	if (PQstatus(connection) != CONNECTION_OK)
		die("connection", PQerrorMessage(connection));
	snprintf(command, sizeof(command), "PREPARE publish(text, text) AS %s", statement);
	execute(connection, command);

	for (int i = *(int *) arg; i < nsamples; i += nthreads)
	{
		const Event *event = &events[i % nevents];

		wait_until(started + (double) i / rate);
		snprintf(command, sizeof(command),
				 "BEGIN; EXECUTE publish('%s', '" NUMBER "%d, %s')", event->key, first_number + i, event->payload);
		execute(connection, command);
		samples[i].sent = now();
		execute(connection, "COMMIT");
		samples[i].returned = now();
	}
	PQfinish(connection);
	return NULL;
}

/* A consumer of all partitions of the topic, from their end. */
static rd_kafka_t *
open_consumer(const char *bootstrap)
{
	static const char *const settings[][2] = {
		{"group.id", "latency"},
		{"enable.auto.commit", "false"},
		{"fetch.wait.max.ms", "100"},
		{"socket.nagle.disable", "true"},
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *kafka;
	rd_kafka_topic_t *handle;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_partition_list_t *partitions;
	char		error[512];

	for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
		rd_kafka_conf_set(conf, settings[i][0], settings[i][1], NULL, 0);
	if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, error, sizeof(error)))
		die(bootstrap, error);
	kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (kafka == NULL)
		die("consumer", error);
	rd_kafka_poll_set_consumer(kafka);

	handle = rd_kafka_topic_new(kafka, topic, NULL);
	if (rd_kafka_metadata(kafka, 0, handle, &metadata, TIMEOUT_MS) ||
		metadata->topic_cnt != 1 || metadata->topics[0].partition_cnt == 0)
		die(topic, "cannot be consumed");
	partitions = rd_kafka_topic_partition_list_new(1);
	for (int i = 0; i < metadata->topics[0].partition_cnt; i++)
	{
		int64_t		low,
					high;

		/* The end as it is now, so that nothing published later is missed. */
		if (rd_kafka_query_watermark_offsets(kafka, topic, i, &low, &high, TIMEOUT_MS))
			die(topic, "has a partition without a leader");
		rd_kafka_topic_partition_list_add(partitions, topic, i)->offset = high;
	}
	if (rd_kafka_assign(kafka, partitions))
		die(topic, "cannot be assigned");
	rd_kafka_topic_partition_list_destroy(partitions);
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
	return kafka;
}

/*
 * Consumes until every event has arrived.  Others may be late ones of a run
 * before, or come a second time.
 */
static void
consume(rd_kafka_t *kafka)
{
	int			missing = nsamples;

	while (missing > 0)
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(kafka, TIMEOUT_MS);
		double		arrived = now();
		const char *payload;
		int			number = -1;

		if (message == NULL)
			die("events", "not all of them arrived");
		if (message->err)
			die("consumer", rd_kafka_message_errstr(message));
		/* The number ends with a comma, so that is as good as an end. */
		payload = message->payload;
		if (message->len > strlen(NUMBER) && memcmp(payload, NUMBER, strlen(NUMBER)) == 0)
			number = atoi(payload + strlen(NUMBER)) - first_number;
		if (number >= 0 && number < nsamples && samples[number].arrived == 0)
		{
			samples[number].arrived = arrived;
			missing--;
		}
		rd_kafka_message_destroy(message);
	}
}

static int
compare(const void *a, const void *b)
{
	double		difference = *(const double *) a - *(const double *) b;

	return (difference > 0) - (difference < 0);
}

static void
print_latency(bool since_returned)
{
	int			first = WARM_UP_SECONDS * rate;
	int			n = nsamples - first;
	double	   *latency = malloc(n * sizeof(double));

	for (int i = 0; i < n; i++)
	{
		Sample	   *sample = &samples[first + i];

		latency[i] = (sample->arrived -
					  (since_returned ? sample->returned : sample->sent)) * 1000;
	}
	qsort(latency, n, sizeof(double), compare);
	printf(" %.2f %.2f %.2f", latency[n / 2], latency[n * 99 / 100], latency[n - 1]);
	free(latency);
}

/* Events a second, until the last one was committed. */
static double
rate_reached(void)
{
	double		end = started;

	for (int i = 0; i < nsamples; i++)
	{
		if (samples[i].returned > end)
			end = samples[i].returned;
	}
	return nsamples / (end - started);
}

int
main(int argc, char **argv)
{
	pthread_t	threads[MAX_THREADS];
	int			numbers[MAX_THREADS];
	rd_kafka_t *kafka;

	if (argc != 7)
		die("usage", "latency BOOTSTRAP TOPIC RATE SECONDS EVENTS STATEMENT");
	topic = argv[2];
	rate = atoi(argv[3]);
	nsamples = rate * (WARM_UP_SECONDS + atoi(argv[4]));
	if (nsamples < 1 || nsamples > MAX_SAMPLES)
		die("RATE and SECONDS", "are out of range");
	first_number = getpid() % (INT_MAX / MAX_SAMPLES) * MAX_SAMPLES;
	samples = calloc(nsamples, sizeof(Sample));
	read_events(argv[5]);
	statement = argv[6];
	nthreads = (rate + RATE_OF_THREAD - 1) / RATE_OF_THREAD;
	if (nthreads < 1 || nthreads > MAX_THREADS)
		die("RATE", "is out of range");

	kafka = open_consumer(argv[1]);
	started = now();
	for (int i = 0; i < nthreads; i++)
	{
		numbers[i] = i;
		pthread_create(&threads[i], NULL, publish, &numbers[i]);
	}
	consume(kafka);
	for (int i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);

	printf("%.0f", rate_reached());
	print_latency(false);
	print_latency(true);
	printf("\n");
	rd_kafka_consumer_close(kafka);
	rd_kafka_destroy(kafka);
	return 0;
}
