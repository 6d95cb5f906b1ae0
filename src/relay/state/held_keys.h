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

extern void heldkeys_clear(void);
extern bool heldkeys_any(void);
extern bool heldkeys_contain(const char *topic, Slice key);
extern bool heldkeys_blocked(const char *topic, Slice key);
extern void heldkeys_add(const char *topic, Slice key, bool blocked,
						 uint64 after);
extern void heldkeys_remove(const char *topic, Slice key);
extern void heldkeys_rewind(uint64 number);
extern void heldkeys_unblock_all(void);
extern void heldkeys_block(const char *topic, Slice key);
extern bool heldkeys_next_free(const char **topic, Slice *key);

#endif							/* OUTBOX_HELD_KEYS_H */
