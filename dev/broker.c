/*-------------------------------------------------------------------------
 *
 * broker.c
 *	  A Kafka broker to try things with, in one small process.
 *
 * It is librdkafka's mock cluster, served to other processes.  Producing,
 * fetching, headers, keys and consumer groups work, and a topic that does not
 * exist is made on the way, with the library's own number of partitions.  That
 * is enough for a demonstration, a smoke test or a measurement of the client's
 * limits.
 *
 * It proves nothing about loss, duplicates or exactly-once delivery: it keeps
 * 5 MB a partition and forgets the oldest, all in memory; it does not enforce
 * idempotence or fence old producers; it shows aborted transactions, and it
 * does not create topics on request.  dev/kafka runs a real Kafka for that.
 *
 * It ends when its standard input does, so give it a pipe and hold the other
 * end: however the holder dies, the broker goes with it.  A signal ends it as
 * well, and needs no handler, because nothing outlives the process but the
 * port file.
 *
 *	  cc -o broker broker.c $(pkg-config --cflags --libs rdkafka)
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>

static void
die(const char *format,...)
{
	va_list		args;

	fputs("broker: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static void
usage(void)
{
	fputs("usage: broker --port-file FILE [--topic NAME:PARTITIONS]...\n"
		  "\n"
		  "Writes its address, host:port, to FILE once it serves, and serves until\n"
		  "its standard input ends.\n",
		  stderr);
	exit(2);
}

/*
 * Start a cluster of one broker.  It lives as long as the process.
 */
static rd_kafka_mock_cluster_t *
start_cluster(void)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *handle;
	rd_kafka_mock_cluster_t *cluster;
	char		error[512];

	/*
	 * The mock cluster borrows logging and such from a client.  That client
	 * has no servers of its own, a notice of which would only puzzle.
	 */
	if (rd_kafka_conf_set(conf, "log_level", "4", error, sizeof(error)) != RD_KAFKA_CONF_OK)
		die("could not configure librdkafka: %s", error);
	handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (handle == NULL)
		die("could not start librdkafka: %s", error);

	cluster = rd_kafka_mock_cluster_new(handle, 1);
	if (cluster == NULL)
		die("could not start the broker: no free port or no memory");

	return cluster;
}

/*
 * Create a topic as "NAME:PARTITIONS" says.
 */
static void
create_topic(rd_kafka_mock_cluster_t * cluster, const char *spec)
{
	const char *colon = strrchr(spec, ':');
	char	   *name;
	char	   *end;
	long		partitions;
	rd_kafka_resp_err_t err;

	if (colon == NULL || colon == spec)
		die("\"%s\" is not of the form NAME:PARTITIONS", spec);

	partitions = strtol(colon + 1, &end, 10);
	if (end == colon + 1 || *end != '\0' || partitions < 1 || partitions > 10000)
		die("\"%s\" is not a number of partitions from 1 to 10000", colon + 1);

	name = strndup(spec, colon - spec);
	if (name == NULL)
		die("out of memory");

	err = rd_kafka_mock_topic_create(cluster, name, (int) partitions, 1);
	if (err)
		die("could not create topic \"%s\": %s", name, rd_kafka_err2str(err));

	free(name);
}

/*
 * Write the address to a file that, once it is there, is complete.
 */
static void
write_address(const char *path, const char *address)
{
	char		temporary[PATH_MAX];
	FILE	   *file;

	if ((size_t) snprintf(temporary, sizeof(temporary), "%s.new", path) >= sizeof(temporary))
		die("the name of the port file is too long");

	file = fopen(temporary, "w");
	if (file == NULL)
		die("could not create file \"%s\": %s", temporary, strerror(errno));

	if (fprintf(file, "%s\n", address) < 0 || fclose(file) != 0)
		die("could not write file \"%s\": %s", temporary, strerror(errno));

	if (rename(temporary, path) != 0)
		die("could not rename file \"%s\" to \"%s\": %s",
			temporary, path, strerror(errno));
}

/*
 * Return when standard input ends.
 */
static void
wait_for_end_of_input(void)
{
	char		buf[256];
	ssize_t		n;

	do
		n = read(STDIN_FILENO, buf, sizeof(buf));
	while (n > 0 || (n < 0 && errno == EINTR));
}

int
main(int argc, char **argv)
{
	rd_kafka_mock_cluster_t *cluster;
	const char *port_file = NULL;

	/* Every option has a value; topics are made once there is a cluster. */
	if (argc % 2 == 0)
		usage();
	for (int i = 1; i < argc; i += 2)
	{
		if (strcmp(argv[i], "--port-file") == 0)
			port_file = argv[i + 1];
		else if (strcmp(argv[i], "--topic") != 0)
			usage();
	}
	if (port_file == NULL)
		usage();

	cluster = start_cluster();
	for (int i = 1; i < argc; i += 2)
	{
		if (strcmp(argv[i], "--topic") == 0)
			create_topic(cluster, argv[i + 1]);
	}

	write_address(port_file, rd_kafka_mock_cluster_bootstraps(cluster));
	wait_for_end_of_input();

	return 0;
}
