/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The launcher: which databases need which worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LAUNCHER_H
#define OUTBOX_LAUNCHER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

extern void launcher_register(void);
extern bool launcher_start_worker(const char *type, const char *function,
								  Datum arg, Oid database,
								  BackgroundWorkerHandle **handle);
extern TimestampTz launcher_backoff_end(int failures, TimestampTz now);
extern PGDLLEXPORT void outbox_launcher_main(Datum arg);

#endif							/* OUTBOX_LAUNCHER_H */
