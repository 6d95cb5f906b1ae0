/*-------------------------------------------------------------------------
 *
 * background_worker.h
 *	  What every background worker of ours shares.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BACKGROUND_WORKER_H
#define OUTBOX_BACKGROUND_WORKER_H

#include "postgres.h"

#include "postmaster/bgworker.h"
#include "storage/lockdefs.h"

#define WORKER_LIBRARY "outbox"
#define EXTENSION_NAME "outbox"

/* What has come of a lock that is not waited for. */
typedef enum LockOutcome
{
	LOCK_TAKEN,
	LOCK_BUSY,					/* somebody has one that is in the way */
	LOCK_NO_TABLE
} LockOutcome;

extern bool worker_extension_exists(void);
extern const char *worker_version_conflict(void);
extern void worker_begin(void);
extern void worker_begin_afresh(void);
extern void worker_begin_sql(void);
extern bool worker_server_stops(void);
extern void worker_begin_sql_at_exit(void);
extern LockOutcome worker_try_lock(const char *schema, const char *table, LOCKMODE mode);
extern bool worker_run_sql(const char *query, int nargs, Oid *types,
						   Datum *args, int expected);
extern void worker_prove_sql(const char *query, int nargs, Oid *types,
							 Datum *args);
extern void worker_commit_sql(void);
extern void worker_commit_sql_durably(void);

#endif							/* OUTBOX_BACKGROUND_WORKER_H */
