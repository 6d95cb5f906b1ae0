/*-------------------------------------------------------------------------
 *
 * dead_letters.h
 *	  Events that Kafka refuses for good, and those that wait behind them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DEAD_LETTERS_H
#define OUTBOX_DEAD_LETTERS_H

#include "utils/hsearch.h"

#include "relay/delivery/destination.h"
#include "relay/state/relay.h"

/* What events that are sent again from outbox.dead_letter are to it. */
typedef enum ResendKind
{
	RESEND_NONE,				/* a new event, or a replay */
	RESEND_FAILED,				/* a dead letter */
	RESEND_HELD,				/* one that waited behind a dead letter */
	RESEND_PARKED				/* one whose topic could not be written */
} ResendKind;

/* An event that is set aside and not yet written. */
typedef struct SetAside
{
	uint64		number;			/* in the ledger */
	LedgerPosition before;		/* that of the ledger in front of it */
	ResendKind	resend;			/* what it was before */
	bool		waits;			/* else it is a dead letter */
	bool		parked;			/* waits for its topic, not behind one */
	bool		again;			/* was met once more: waits behind what was
								 * set aside since */
	int			partition;		/* if parked: that, or WHOLE_TOPIC */
	bool		holds;			/* later ones of the key wait behind it */
	bool		replay;
	int64		id;
	pg_uuid_t	event_id;
	uint64		xid;
	int16		chunk;
	int32		database_id;
	char	   *topic;
	char	   *key;			/* NULL when there is none */
	const char *error_name;
	char	   *error;
} SetAside;

/* A stored event that may come again. */
typedef struct StoredEvent
{
	int64		id;				/* hash key */
	bool		holds;
	bool		waits;
	bool		parked;
} StoredEvent;

/* dead_letters.c */
extern void deadletter_set_resend(ResendKind kind);
extern ResendKind deadletter_resend(void);
extern void deadletter_start(Relay *relay);
extern bool deadletter_unstored(LedgerPosition *position, int64 *id);
extern void deadletter_before_more(Relay *relay);
extern void deadletter_met(const Event *event);
extern bool deadletter_set_aside(Relay *relay, const Event *event,
								 uint64 number);
extern void deadletter_add(Relay *relay, const Event *event, uint64 number,
						   const char *error_name, const char *error);
extern void deadletter_park(Relay *relay, const Event *event, uint64 number,
							const Destination *destination);
extern void deadletter_rewind(Relay *relay);
extern void deadletter_store(Relay *relay);
extern bool deadletter_any_pending(void);
extern void deadletter_write(Relay *relay);
extern bool deadletter_leave(Relay *relay);

/* dead_letter_table.c */
extern HTAB *deadletter_load_stored(void);
extern void deadletter_load_keys(bool exact);
extern void deadletter_write_one(const SetAside *item);
extern bool deadletter_begin_at_exit(void);

/* held_keys.c */
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

/* dead_letter_retry.c */
extern void resend_look(void);
extern long resend_wait_ms(const Relay *relay, long at_most);
extern bool resend_step(Relay *relay);

#endif							/* OUTBOX_DEAD_LETTERS_H */
