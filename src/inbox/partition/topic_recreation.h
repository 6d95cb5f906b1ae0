/*-------------------------------------------------------------------------
 *
 * topic_recreation.h
 *	  Finds out that a topic was deleted and made again while it was being read.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TOPIC_RECREATION_H
#define OUTBOX_TOPIC_RECREATION_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern bool recreation_ask(InboxWorker *worker, Search *search);
extern bool recreation_take(InboxWorker *worker, Search *search);

#endif							/* OUTBOX_TOPIC_RECREATION_H */
