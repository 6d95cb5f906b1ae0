/*-------------------------------------------------------------------------
 *
 * property_value.c
 *	  Properties of a configuration, as librdkafka understood them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/property_value.h"

#include <stdlib.h>

/*
 * Reads a property, as the library understood it, into a buffer of VALUE_LEN
 * bytes.  Longer values than fit come out empty; those are texts, and of no
 * importance to us.
 */
void
client_property(const rd_kafka_conf_t *conf, const char *name, char *value)
{
	size_t		size = VALUE_LEN;

	value[0] = '\0';
	if (rd_kafka_conf_get(conf, name, value, &size) != RD_KAFKA_CONF_OK ||
		size > VALUE_LEN)
		value[0] = '\0';
}

/*
 * The same for a number.
 */
double
client_number(const rd_kafka_conf_t *conf, const char *name)
{
	char		value[VALUE_LEN];

	client_property(conf, name, value);
	return strtod(value, NULL);
}
