/*-------------------------------------------------------------------------
 *
 * topic_search.h
 *	  Looks for the topics of a subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_TOPIC_SEARCH_H
#define OUTBOX_TOPIC_SEARCH_H

#include "postgres.h"

#include "inbox/process/inbox_worker.h"

extern Search *search_begin(InboxWorker *worker);
extern bool search_has(Search *search, const char *topic);
extern bool search_continue(InboxWorker *worker, Search *search);
extern void search_asked(Search *search);
extern void search_failed(InboxWorker *worker, Search *search,
						  const char *topic);

#endif							/* OUTBOX_TOPIC_SEARCH_H */
