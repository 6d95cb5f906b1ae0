/*-------------------------------------------------------------------------
 *
 * parked_topics.h
 *	  Topics and partitions that cannot be written now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PARKED_TOPICS_H
#define OUTBOX_PARKED_TOPICS_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "event/topic_name.h"
#include "kafka/config/config.h"

/* The name of the error when a topic takes nothing, though brokers answer. */
#define PARKED_SILENT "REQUEST_TIMED_OUT"

/* Stands for all partitions of a topic. */
#define WHOLE_TOPIC (-1)

/* One topic, or one partition of it.  Times are by monotonic_now(). */
typedef struct Parked
{
	char		topic[TOPIC_MAX_LEN + 1];	/* hash key, with the next */
	int32		partition;		/* or WHOLE_TOPIC */
	bool		stored;			/* there is a row of outbox.parked_topic */
	bool		sending;		/* it can be written again, it seems */
	bool		shown_sending;	/* the row says so */
	TimestampTz asked_at;		/* a broker, for this probe; 0 if not yet */
	TimestampTz probe_at;		/* when it is to be tried next */
	TimestampTz parked_at;		/* 0 if by a relay before this one */
	int			probe_delay;	/* ms, after the next failure */
	int			batch_events;	/* to be sent at a time */
	char		error_name[64];
	char		error[PRODUCER_ERROR_LEN];
} Parked;

extern bool parked_topics_any(void);
extern bool parked_topics_has_topic(const char *topic);
extern Parked *parked_topics_find(const char *topic, int32 partition);
extern bool parked_topics_blocks(const char *topic, const Parked *releasing);
extern Parked *parked_topics_add(const char *topic, int32 partition,
								 const char *error_name, const char *error);
extern void parked_topics_fail(Parked *parked, const char *error_name,
							   const char *error);
extern void parked_topics_open(Parked *parked);
extern void parked_topics_went_well(Parked *parked);
extern void parked_topics_remove(Parked *parked);
extern Parked *parked_topics_next_due(TimestampTz now);
extern long parked_topics_wait_ms(TimestampTz now, long at_most);
extern void parked_topics_load(void);
extern bool parked_topics_is_stored(void);
extern void parked_topics_store(void);

#endif							/* OUTBOX_PARKED_TOPICS_H */
