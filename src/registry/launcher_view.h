/*-------------------------------------------------------------------------
 *
 * launcher_view.h
 *	  What the launcher does with the registry of databases.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LAUNCHER_VIEW_H
#define OUTBOX_LAUNCHER_VIEW_H

#include "postgres.h"

/* A copy of an entry, as the launcher wants it. */
typedef struct DatabaseInfo
{
	Oid			database;
	pid_t		pid;			/* of its relay; 0 when it has none */
	bool		looking;		/* the relay does not know yet whether the
								 * extension is there */
	bool		absent;			/* the relay found no extension there */
	bool		held;			/* a utility command wants nobody there */
	int			failures;		/* starts without progress since */
	bool		failed;			/* the last relay ended with an error */
	int			errors;			/* relays that did, since one had lasted */
	uint64		requests;		/* times that somebody asked for a relay */
} DatabaseInfo;

extern bool shmem_full(void);
extern uint64 shmem_reloads(void);
extern void shmem_launcher_attach(void);
extern void shmem_count_reload(void);
extern int	shmem_list_databases(DatabaseInfo *list, int size);
extern bool shmem_overflowed(void);
extern void shmem_forget_database(const DatabaseInfo *info);
extern void shmem_count_start(Oid database, bool afresh);
extern void shmem_report_failure(Oid database, const char *message);

#endif							/* OUTBOX_LAUNCHER_VIEW_H */
