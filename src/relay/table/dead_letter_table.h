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

extern HTAB *dead_letter_table_load_stored(void);
extern void dead_letter_table_load_keys(bool exact);
extern void dead_letter_table_write_one(const SetAside *item);
extern bool dead_letter_table_begin_at_exit(void);

#endif							/* OUTBOX_DEAD_LETTER_TABLE_H */
