/*-------------------------------------------------------------------------
 *
 * held_keys.h
 *	  The keys whose events wait behind a dead letter.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HELD_KEYS_H
#define OUTBOX_HELD_KEYS_H

#include "postgres.h"

#include "core/slice.h"

extern void held_keys_clear(void);
extern bool held_keys_any(void);
extern bool held_keys_contain(const char *topic, Slice key);
extern bool held_keys_blocked(const char *topic, Slice key);
extern void held_keys_add(const char *topic, Slice key, bool blocked,
						  uint64 after);
extern void held_keys_remove(const char *topic, Slice key);
extern void held_keys_rewind(uint64 number);
extern void held_keys_unblock_all(void);
extern void held_keys_block(const char *topic, Slice key);
extern bool held_keys_next_free(const char **topic, Slice *key);

#endif							/* OUTBOX_HELD_KEYS_H */
