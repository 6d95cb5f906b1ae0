/*-------------------------------------------------------------------------
 *
 * async_commit_flush.h
 *	  Writes WAL to disk that the server's WAL writer leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ASYNC_COMMIT_FLUSH_H
#define OUTBOX_ASYNC_COMMIT_FLUSH_H

#include "postgres.h"

extern void async_commit_flush_check(void);

#endif							/* OUTBOX_ASYNC_COMMIT_FLUSH_H */
