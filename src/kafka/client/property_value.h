/*-------------------------------------------------------------------------
 *
 * property_value.h
 *	  Properties of a configuration, as librdkafka understood them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROPERTY_VALUE_H
#define OUTBOX_PROPERTY_VALUE_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#define VALUE_LEN 512			/* of a property that we look at */

extern void client_property(const rd_kafka_conf_t *conf, const char *name,
							char *value);
extern double client_number(const rd_kafka_conf_t *conf, const char *name);

#endif							/* OUTBOX_PROPERTY_VALUE_H */
