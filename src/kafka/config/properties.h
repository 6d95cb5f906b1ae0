/*-------------------------------------------------------------------------
 *
 * properties.h
 *	  What outbox thinks of librdkafka's configuration properties.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PROPERTIES_H
#define OUTBOX_PROPERTIES_H

#include "postgres.h"

/*
 * A property that the administrator may not set freely.  values lists what it
 * may be, as librdkafka prints it and as people write it, separated by ", ";
 * "!value" stands for any other value, NULL for none at all.
 */
typedef struct PropertyRule
{
	const char *pattern;		/* a name; "*" stands for any start or end */
	const char *values;
	const char *reason;			/* a sentence */
	int			until;			/* the version of the library that needs no
								 * such rule, as rd_kafka_version() has it; 0
								 * for none */
} PropertyRule;

extern const PropertyRule *property_rule(const char *name);
extern bool property_rule_allows(const PropertyRule *rule, const char *value);
extern bool property_is_secret(const char *name);
extern bool property_is_security(const char *name);
extern bool property_names_file(const char *name);
extern bool property_reaches_out(const char *name);
extern bool property_is_mechanism(const char *name);
extern bool property_feeds_shell(const char *name);
extern bool property_is_prefixed(const char *name);
extern bool property_is_broker_list(const char *name);
extern char *property_valid_values(const char *name);
extern char *property_nearest_names(const char *name);

#endif							/* OUTBOX_PROPERTIES_H */
