/*-------------------------------------------------------------------------
 *
 * fencing.h
 *	  A relay that Kafka takes nothing from any more, because another one took its
 *	  place, or for other reasons.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_FENCING_H
#define OUTBOX_FENCING_H

#include "postgres.h"

#include "core/compat.h"
#include "relay/state/published_set.h"
#include "relay/state/relay.h"

pg_noreturn extern void fencing_fence(Relay *relay);
extern void fencing_check_successor(Relay *relay);
pg_noreturn extern void fencing_refused(Relay *relay, const char *failure);
extern const char fencing_message[];
pg_noreturn extern void fencing_stay(Relay *relay, const char *message);
extern bool fencing_is_successor(const Relay *relay, const PublishedSet *set);

#endif							/* OUTBOX_FENCING_H */
