/*-------------------------------------------------------------------------
 *
 * set_aside.h
 *	  Events that are not sent now, as the files about them share them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SET_ASIDE_H
#define OUTBOX_SET_ASIDE_H

#include "postgres.h"

#include "utils/uuid.h"

#include "relay/state/ledger.h"

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

extern void deadletter_set_resend(ResendKind kind);
extern ResendKind deadletter_resend(void);

#endif							/* OUTBOX_SET_ASIDE_H */
