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

#include "relay/catchup_progress.h"

#define PUBLISHED_SET_INSTANCE_LEN 36	/* a uuid as text */

typedef struct PublishedSet
{
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
	int64		replay_job;		/* a replay that was under way, 0 for none, */
	int64		replay_id;		/* the last event of it, */
	int64		replay_sent;	/* and how many it came to */
	const CatchupProgress *catchup; /* one that is under way: what it has
									 * published beside; NULL for none */
} PublishedSet;

extern void published_set_add(PublishedSet *set, uint64 xid,
							  MemoryContext context);
extern void published_set_rebase(PublishedSet *set, const char *snapshot,
								 MemoryContext context);
extern char *published_set_fold(const PublishedSet *set);
extern void published_set_encode(StringInfo buf, const PublishedSet *set,
								 int max_bytes);
extern void published_set_decode(PublishedSet *set, const char *record,
								 int len);

#endif							/* OUTBOX_PUBLISHED_SET_H */
