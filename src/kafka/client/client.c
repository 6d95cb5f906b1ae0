/*-------------------------------------------------------------------------
 *
 * client.c
 *	  What producer and consumer need of librdkafka alike: a configuration, a
 *	  handle, and a pipe that tells when there are events.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/client.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "commands/defrem.h"
#include "storage/fd.h"

#include "kafka/client/destroy.h"
#include "kafka/client/oauth_token.h"
#include "kafka/client/property_value.h"
#include "kafka/client/socket_options.h"
#include "kafka/config/broker_list.h"
#include "kafka/config/config.h"
#include "kafka/config/properties.h"

/*
 * Sets a property.  Returns false, with the reason in error but no secret,
 * when the library refuses it, or we do: another release may have checked it
 * than the one that runs.
 */
static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value,
			 char *error)
{
	const PropertyRule *rule = property_rule(name);
	char		understood[VALUE_LEN];
	bool		allowed = rule == NULL || rule->values != NULL;

	if (allowed && rd_kafka_conf_set(conf, name, value, error,
									 PRODUCER_ERROR_LEN) != RD_KAFKA_CONF_OK)
	{
		if (property_is_secret(name))
			snprintf(error, PRODUCER_ERROR_LEN,
					 "invalid value for option \"%s\"", name);
		return false;
	}
	if (rule && allowed)
	{
		client_property(conf, name, understood);
		allowed = property_rule_allows(rule, understood);
	}
	if (!allowed)
		snprintf(error, PRODUCER_ERROR_LEN, "option \"%s\" cannot be set so: %s",
				 name, rule->reason);
	return allowed;
}

/*
 * Who names no mechanism gets GSSAPI, which uses what the user of the operating
 * system has that the database server runs as: tickets and keytabs.  Returns
 * false, with an error, when the owner of the foreign server may not choose
 * that; options.c checks those who name it.
 */
static bool
check_mechanism(const rd_kafka_conf_t *conf, const KafkaConfig *config,
				char *error)
{
	char		protocol[VALUE_LEN];

	client_property(conf, "security.protocol", protocol);
	if (strncmp(protocol, "sasl_", strlen("sasl_")) != 0 ||
		config->owner_reads_files || kafka_config_has_mechanism(config))
		return true;
	strlcpy(error, "option \"sasl.mechanism\" is missing: for GSSAPI, the default, which uses the Kerberos credentials of the database server, the owner of the foreign server needs the rights of pg_read_server_files",
			PRODUCER_ERROR_LEN);
	return false;
}

/*
 * Makes the library's configuration.  Defaults hold unless the administrator
 * chose otherwise, and those that the library was built without (compression)
 * are left out; promises hold in any case.  Returns NULL, with the reason in
 * error (PRODUCER_ERROR_LEN bytes), when the library refuses it.
 */
rd_kafka_conf_t *
client_configure(const KafkaConfig *config, const Setting *defaults,
				 int ndefaults, const Setting *promises, int npromises,
				 char *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool		ok = true;
	ListCell   *lc;

	for (int i = 0; i < ndefaults; i++)
		(void) rd_kafka_conf_set(conf, defaults[i].name, defaults[i].value,
								 NULL, 0);
	foreach(lc, config->options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		ok = ok && set_property(conf, option->defname, strVal(option->arg), error);
	}
	for (int i = 0; i < npromises; i++)
		ok = ok && rd_kafka_conf_set(conf, promises[i].name, promises[i].value,
									 error, PRODUCER_ERROR_LEN) == RD_KAFKA_CONF_OK;
	socket_options_configure(conf);
	ok = ok && check_mechanism(conf, config, error);
	if (ok && oauth_token_configure(conf, error))
		return conf;
	rd_kafka_conf_destroy(conf);
	return NULL;
}

/*
 * Are all brokers to be reached by the configuration's protocol?
 */
bool
client_check_brokers(const rd_kafka_conf_t *conf, const KafkaConfig *config,
					 char *error)
{
	char		protocol[VALUE_LEN];

	client_property(conf, "security.protocol", protocol);
	return !broker_list_disagree(config, protocol, error);
}

/*
 * Creates a handle out of a configuration, which it takes; NULL and an error
 * when the library refuses it, and then it is the caller's still.  All signals
 * are blocked meanwhile, since the library's threads inherit our mask and must
 * leave our signals to us.
 */
rd_kafka_t *
client_try(rd_kafka_type_t type, rd_kafka_conf_t *conf, char *error)
{
	rd_kafka_t *handle;
	sigset_t	all;
	sigset_t	before;

	destroy_expect();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	handle = rd_kafka_new(type, conf, error, PRODUCER_ERROR_LEN);
	if (handle)
		oauth_token_start(handle);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (handle == NULL)
		destroy_done();
	return handle;
}

/*
 * The same, but it takes the configuration in any case.
 */
rd_kafka_t *
client_create(rd_kafka_type_t type, rd_kafka_conf_t *conf, char *error)
{
	rd_kafka_t *handle = client_try(type, conf, error);

	if (handle == NULL)
		rd_kafka_conf_destroy(conf);
	return handle;
}

/*
 * Says that the pipe is not open yet.
 */
void
wake_pipe_init(WakePipe *wake)
{
	wake->read_end = wake->write_end = -1;
}

/*
 * Opens the pipe; false and an error when that cannot be done.
 */
bool
wake_pipe_open(WakePipe *wake, char *error)
{
	int			fds[2];

	if (pipe(fds) != 0)
	{
		snprintf(error, PRODUCER_ERROR_LEN, "could not create a pipe: %s",
				 strerror(errno));
		return false;
	}
	for (int i = 0; i < 2; i++)
	{
		ReserveExternalFD();
		(void) fcntl(fds[i], F_SETFL, O_NONBLOCK);
		(void) fcntl(fds[i], F_SETFD, FD_CLOEXEC);
	}
	wake->read_end = fds[0];
	wake->write_end = fds[1];
	return true;
}

/*
 * Closes the pipe if it is open.
 */
void
wake_pipe_close(WakePipe *wake)
{
	int			fds[] = {wake->read_end, wake->write_end};

	for (int i = 0; i < lengthof(fds); i++)
	{
		if (fds[i] < 0)
			continue;
		close(fds[i]);
		ReleaseExternalFD();
	}
	wake_pipe_init(wake);
}

/*
 * Has the library write to the pipe when an event comes into the queue while
 * it is empty.  The first may have come before that, so the pipe begins
 * readable.
 */
void
wake_pipe_watch(const WakePipe *wake, rd_kafka_queue_t *queue)
{
	ssize_t		written pg_attribute_unused();

	rd_kafka_queue_io_event_enable(queue, wake->write_end, "1", 1);
	written = write(wake->write_end, "1", 1);
}

/*
 * Empties the pipe.  To be done before the queue is looked at: the other order
 * can lose a wake-up.
 */
void
wake_pipe_empty(const WakePipe *wake)
{
	char		buffer[64];

	while (read(wake->read_end, buffer, sizeof(buffer)) == sizeof(buffer))
		;
}
