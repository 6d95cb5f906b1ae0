/*-------------------------------------------------------------------------
 *
 * discovery.h
 *	  Reads inbox.subscription for the launcher.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DISCOVERY_H
#define OUTBOX_DISCOVERY_H

#include "postgres.h"

/* A subscription that works: not in a copy of its database, for example. */
#define IS_ACTIVE \
	" NOT paused AND stopped_by IS NULL" \
	" AND database_id OPERATOR(pg_catalog.=) outbox.database_id()"

/*
 * What a worker was started with.  One that was made anew under the same name
 * is another, though it has changed as often.
 */
#define GENERATION \
	"generation OPERATOR(pg_catalog.+)" \
	" (EXTRACT(epoch FROM created_at) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8"

extern bool discovery_publish(void);

#endif							/* OUTBOX_DISCOVERY_H */
