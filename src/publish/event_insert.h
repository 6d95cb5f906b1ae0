/*-------------------------------------------------------------------------
 *
 * event_insert.h
 *	  outbox.event as publish() sees it: the chunk that takes new rows, the
 *	  numbers of rows, and the way in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_INSERT_H
#define OUTBOX_EVENT_INSERT_H

#include "postgres.h"

#include "storage/lockdefs.h"
#include "utils/rel.h"

extern void store_insert(Datum *values, bool *nulls, bool id_given);

#endif							/* OUTBOX_EVENT_INSERT_H */
