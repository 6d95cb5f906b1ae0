/*-------------------------------------------------------------------------
 *
 * identity_rules.h
 *	  What tells a message from others, by choice of who subscribes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_IDENTITY_RULES_H
#define OUTBOX_IDENTITY_RULES_H

#include "postgres.h"

#include "utils/array.h"

/* A field of JSON payloads that a column comes from. */
typedef struct FieldRule
{
	const char *argument;		/* of inbox.subscribe() */
	char	   *name;			/* as it was given; NULL: there is none */
	ArrayType  *path;			/* its parts, a text[] */
} FieldRule;

/* Where identity, type and subject of messages are, and what they are for. */
typedef struct IdentityRules
{
	bool		by_position;	/* topic, partition and offset are the id */
	bool		remembered;		/* in inbox.received */
	bool		per_topic;		/* ids count within a topic */
	bool		conflicts_fail; /* an id with another content is an error */
	char	   *id_header;		/* in UTF-8, as Kafka has it; may be NULL */
	char	   *type_header;	/* the same */
	FieldRule	id_field;
	FieldRule	type_field;
	FieldRule	aggregate_id_field;
} IdentityRules;

#endif							/* OUTBOX_IDENTITY_RULES_H */
