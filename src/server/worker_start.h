/*-------------------------------------------------------------------------
 *
 * worker_start.h
 *	  Starts background workers of ours, and when one that failed is started again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WORKER_START_H
#define OUTBOX_WORKER_START_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

extern bool launcher_start_worker(const char *type, const char *function,
								  Datum arg, Oid database,
								  BackgroundWorkerHandle **handle);
extern TimestampTz launcher_backoff_end(int failures, TimestampTz now);

#endif							/* OUTBOX_WORKER_START_H */
