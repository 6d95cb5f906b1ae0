/*-------------------------------------------------------------------------
 *
 * backlog.h
 *	  Whether there is a backlog, and what follows from that.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BACKLOG_H
#define OUTBOX_BACKLOG_H

#include "postgres.h"

#include "kafka/producer/producer_state.h"

extern bool backlog_grows(const Producer *producer, bool flushed);
extern void backlog_note_caught_up(Producer *producer);
extern void backlog_poll(Producer *producer, TimestampTz now);

#endif							/* OUTBOX_BACKLOG_H */
