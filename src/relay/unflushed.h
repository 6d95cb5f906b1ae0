/*-------------------------------------------------------------------------
 *
 * unflushed.h
 *	  Writes WAL to disk that the server's WAL writer leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UNFLUSHED_H
#define OUTBOX_UNFLUSHED_H

extern void unflushed_check(void);

#endif							/* OUTBOX_UNFLUSHED_H */
