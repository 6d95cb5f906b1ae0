/*-------------------------------------------------------------------------
 *
 * growth.c
 *	  How fast a topic grows, whoever writes to it.
 *
 *	  growth BOOTSTRAP TOPIC COUNT SECONDS
 *
 * Prints a line when it has looked for the first time; when it sees the topic
 * grow, the time of that, in seconds since 1970; and when the topic has grown by
 * COUNT messages and grows no more, or SECONDS have passed since it began to,
 * by how many it has grown and until when.
 *
 * Only committed messages count.  A transaction's end is one too for each of its
 * partitions, as the broker counts.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <librdkafka/rdkafka.h>

#define TIMEOUT_MS 10000
#define FIRST_TIMEOUT 60		/* seconds until it grows */
#define QUIET 0.5				/* seconds without growth: it grows no more */
#define INTERVAL_NS 10000000

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "growth: %s: %s\n", what, why);
	exit(1);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static rd_kafka_t *
open_client(const char *bootstrap)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *kafka;
	char		error[512];

	rd_kafka_conf_set(conf, "isolation.level", "read_committed", NULL, 0);
	rd_kafka_conf_set(conf, "socket.nagle.disable", "true", NULL, 0);
	if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, error, sizeof(error)))
		die(bootstrap, error);
	kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (kafka == NULL)
		die("client", error);
	return kafka;
}

static int
count_partitions(rd_kafka_t *kafka, const char *topic)
{
	rd_kafka_topic_t *handle = rd_kafka_topic_new(kafka, topic, NULL);
	const struct rd_kafka_metadata *metadata;
	int			n;

	if (rd_kafka_metadata(kafka, 0, handle, &metadata, TIMEOUT_MS) ||
		metadata->topic_cnt != 1 || metadata->topics[0].partition_cnt == 0)
		die(topic, "is not known");
	n = metadata->topics[0].partition_cnt;
	rd_kafka_metadata_destroy(metadata);
	rd_kafka_topic_destroy(handle);
	return n;
}

/* The sum of the ends of all partitions, with a request to each broker. */
static int64_t
look(rd_kafka_t *kafka, const char *topic, int npartitions)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(npartitions);
	rd_kafka_resp_err_t err;
	int64_t		sum = 0;

	/* The place of a time: this one stands for the end. */
	for (int i = 0; i < npartitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = RD_KAFKA_OFFSET_END;
	err = rd_kafka_offsets_for_times(kafka, list, TIMEOUT_MS);
	if (err)
		die(topic, rd_kafka_err2str(err));
	for (int i = 0; i < npartitions; i++)
	{
		if (list->elems[i].err)
			die(topic, rd_kafka_err2str(list->elems[i].err));
		sum += list->elems[i].offset;
	}
	rd_kafka_topic_partition_list_destroy(list);
	return sum;
}

int
main(int argc, char **argv)
{
	struct timespec interval = {0, INTERVAL_NS};
	rd_kafka_t *kafka;
	const char *topic;
	int			npartitions;
	int64_t		count,
				first_end,
				end;
	double		seconds,
				start,
				began = 0,
				grew = 0;

	if (argc != 5)
		die("usage", "growth BOOTSTRAP TOPIC COUNT SECONDS");
	topic = argv[2];
	count = atoll(argv[3]);
	seconds = atof(argv[4]);
	kafka = open_client(argv[1]);
	npartitions = count_partitions(kafka, topic);
	first_end = end = look(kafka, topic, npartitions);
	printf("ready\n");
	fflush(stdout);

	start = now();
	for (;;)
	{
		int64_t		seen = look(kafka, topic, npartitions);
		double		time = now();

		if (seen != end)
			grew = time;
		if (began == 0 && seen != end)
		{
			began = time;
			printf("%.3f\n", began);
			fflush(stdout);
		}
		end = seen;
		if (began == 0 && time - start > FIRST_TIMEOUT)
			die(topic, "does not grow");
		if (end - first_end >= count && time - grew > QUIET)
			break;
		if (began != 0 && time - began > seconds && end - first_end < count)
		{
			grew = time;
			break;
		}
		nanosleep(&interval, NULL);
	}
	printf("%" PRId64 " %.3f\n", end - first_end, grew);
	rd_kafka_destroy(kafka);
	return 0;
}
