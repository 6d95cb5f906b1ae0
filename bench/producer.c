/*-------------------------------------------------------------------------
 *
 * producer.c
 *	  A plain librdkafka producer: what the relay's speed is measured against.
 *
 *	  producer TOPIC COUNT EVENTS [NAME=VALUE]...
 *
 * Sends COUNT messages that look like the relay's, as fast as it can, and
 * waits until all are acknowledged.  EVENTS is a file of lines "key <tab>
 * payload", used over and over.  NAME=VALUE are librdkafka properties.
 *
 * Prints the seconds from the first message to the last acknowledgement, the
 * CPU seconds of the process in that time, and those of its main thread.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define MAX_EVENTS 100000
#define TOPIC_TIMEOUT_MS 10000

typedef struct Event
{
	char	   *key;
	size_t		key_len;
	char	   *payload;
	size_t		payload_len;
} Event;

static Event events[MAX_EVENTS];
static int	nevents;
static long acknowledged;

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "producer: %s: %s\n", what, why);
	exit(1);
}

static double
seconds(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void
read_events(const char *path)
{
	FILE	   *file = fopen(path, "r");
	char	   *line = NULL;
	size_t		size = 0;
	ssize_t		len;

	if (file == NULL)
		die(path, "cannot be opened");
	while (nevents < MAX_EVENTS && (len = getline(&line, &size, file)) > 0)
	{
		Event	   *event = &events[nevents++];
		char	   *tab = strchr(line, '\t');

		if (tab == NULL || line[len - 1] != '\n')
			die(path, "has a line without a tab or an end");
		event->key_len = tab - line;
		event->key = strndup(line, event->key_len);
		event->payload_len = line + len - 1 - (tab + 1);
		event->payload = strndup(tab + 1, event->payload_len);
	}
	free(line);
	fclose(file);
	if (nevents == 0)
		die(path, "is empty");
}

static void
on_delivery(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque)
{
	if (message->err)
		die("delivery", rd_kafka_err2str(message->err));
	acknowledged++;
}

static rd_kafka_t *
open_producer(char **settings, int nsettings)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *kafka;
	char		error[512];

	for (int i = 0; i < nsettings; i++)
	{
		char	   *value = strchr(settings[i], '=');

		if (value == NULL)
			die(settings[i], "is not NAME=VALUE");
		*value++ = '\0';
		if (rd_kafka_conf_set(conf, settings[i], value, error, sizeof(error)))
			die(settings[i], error);
	}
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (kafka == NULL)
		die("producer", error);
	return kafka;
}

/* The id of an event as publish() makes it: a time, then random digits. */
static void
make_id(char *id)
{
	static const char digits[] = "0123456789abcdef";
	static uint64_t random = 88172645463325252;

	memcpy(id, "019a0000-0000-7", 15);
	for (int i = 15; i < 36; i++)
	{
		/* xorshift; 4 of its bits for a digit, as a uuid's text costs. */
		if (i == 15 || i == 24)
		{
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
		}
		id[i] = digits[(random >> (4 * (i & 15))) & 15];
	}
	id[18] = id[23] = '-';
}

static void
produce(rd_kafka_t *kafka, rd_kafka_topic_t *topic, const Event *event)
{
	char		id[36];
	rd_kafka_headers_t *headers = rd_kafka_headers_new(3);
	rd_kafka_resp_err_t err;

	make_id(id);
	rd_kafka_header_add(headers, "id", 2, id, sizeof(id));
	rd_kafka_header_add(headers, "type", 4, "OrderCreated", 12);
	rd_kafka_header_add(headers, "aggregate_type", 14, "Order", 5);
	while ((err = rd_kafka_producev(kafka,
									RD_KAFKA_V_RKT(topic),
									RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
									RD_KAFKA_V_KEY(event->key, event->key_len),
									RD_KAFKA_V_VALUE(event->payload,
													 event->payload_len),
									RD_KAFKA_V_HEADERS(headers),
									RD_KAFKA_V_END)) != 0)
	{
		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
			die("produce", rd_kafka_err2str(err));
		rd_kafka_poll(kafka, 1000);
	}
	rd_kafka_poll(kafka, 0);
}

int
main(int argc, char **argv)
{
	rd_kafka_t *kafka;
	rd_kafka_topic_t *topic;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	long		count;
	double		start,
				cpu,
				main_cpu;

	if (argc < 4)
		die("usage", "producer TOPIC COUNT EVENTS [NAME=VALUE]...");
	count = atol(argv[2]);
	read_events(argv[3]);
	kafka = open_producer(argv + 4, argc - 4);

	/* The relay too knows its topic and has its connection when it starts. */
	topic = rd_kafka_topic_new(kafka, argv[1], NULL);
	err = rd_kafka_metadata(kafka, 0, topic, &metadata, TOPIC_TIMEOUT_MS);
	if (err)
		die(argv[1], rd_kafka_err2str(err));
	rd_kafka_metadata_destroy(metadata);

	start = seconds(CLOCK_MONOTONIC);
	cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
	main_cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
	for (long i = 0; i < count; i++)
		produce(kafka, topic, &events[i % nevents]);
	while (acknowledged < count)
		rd_kafka_flush(kafka, 1000);
	printf("%.3f %.3f %.3f\n", seconds(CLOCK_MONOTONIC) - start,
		   seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu,
		   seconds(CLOCK_THREAD_CPUTIME_ID) - main_cpu);

	rd_kafka_topic_destroy(topic);
	rd_kafka_destroy(kafka);
	return 0;
}
