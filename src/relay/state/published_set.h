/*-------------------------------------------------------------------------
 *
 * published_set.h
 *	  The exact set of transactions whose events are on Kafka, as a record of
 *	  the progress topic tells it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PUBLISHED_SET_H
#define OUTBOX_PUBLISHED_SET_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "lib/stringinfo.h"

#include "relay/state/catchup_progress.h"

#define MAX_RESENT 1000			/* events that one Kafka transaction sends
								 * again */
#define PUBLISHED_SET_INSTANCE_LEN 36	/* a uuid as text */

/* Events that were set aside and are on Kafka now, by their positions there. */
typedef struct ResentEvents
{
	uint64	   *positions;		/* in ascending order */
	int			size;
} ResentEvents;

typedef struct PublishedSet
{
	int			version;		/* of the record that it was read from */
	uint64		system_identifier;
	Oid			database;
	TimeLineID	timeline;
	XLogRecPtr	lsn;			/* everything committed up to here, and
								 * nothing after it */
	char	   *snapshot;		/* a pg_snapshot as text: what it shows, */
	uint64	   *extras;			/* and these transactions beside */
	int			nextras;
	int			size;			/* entries that extras has room for */
	char		instance[PUBLISHED_SET_INSTANCE_LEN + 1];	/* which relay */
	int			generation;		/* of its transactional id */
	int64		replay_job;		/* a replay that was under way, 0 for none, */
	int64		replay_id;		/* the last event of it, */
	int64		replay_sent;	/* and how many it came to */
	ResentEvents retried;		/* of outbox.dead_letter */
	ResentEvents released;		/* of outbox.held_event */
	const CatchupProgress *catchup; /* one that is under way: what it has
									 * published beside; NULL for none */
} PublishedSet;

/* What a record turns out to be. */
typedef enum SetForm
{
	SET_READ,
	SET_NEWER,					/* of a release that is newer than ours */
	SET_MALFORMED				/* written by somebody else */
} SetForm;

extern void published_set_add(PublishedSet *set, uint64 xid,
							  MemoryContext context);
extern void published_set_rebase(PublishedSet *set, const char *snapshot,
								 MemoryContext context);
extern char *published_set_fold(const PublishedSet *set);
extern int	published_set_extras(const PublishedSet *set, uint64 **result);
extern uint64 published_set_snapshot_end(const char *snapshot);

#endif							/* OUTBOX_PUBLISHED_SET_H */
