/*-------------------------------------------------------------------------
 *
 * dead_letter_table.h
 *	  Reading and writing outbox.dead_letter and outbox.held_event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEAD_LETTER_TABLE_H
#define OUTBOX_DEAD_LETTER_TABLE_H

#include "postgres.h"

#include "utils/hsearch.h"

#include "relay/state/set_aside.h"

extern HTAB *deadletter_load_stored(void);
extern void deadletter_load_keys(bool exact);
extern void deadletter_write_one(const SetAside *item);
extern bool deadletter_begin_at_exit(void);

#endif							/* OUTBOX_DEAD_LETTER_TABLE_H */
