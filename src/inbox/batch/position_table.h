/*-------------------------------------------------------------------------
 *
 * position_table.h
 *	  Moves the rows of inbox.position.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_POSITION_TABLE_H
#define OUTBOX_POSITION_TABLE_H

#include "postgres.h"

#include "inbox/batch/position_move.h"
#include "inbox/process/inbox_worker.h"

extern bool position_lock(InboxWorker *worker, const Move *moves, int n);
extern void position_wait(InboxWorker *worker);
extern void position_move(InboxWorker *worker, Move *moves, int n,
						  volatile bool *disturbed);

#endif							/* OUTBOX_POSITION_TABLE_H */
