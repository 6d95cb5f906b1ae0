/*-------------------------------------------------------------------------
 *
 * uuid7.h
 *	  UUIDs of version 7, for events that come without an id.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UUID7_H
#define OUTBOX_UUID7_H

#include "postgres.h"

#include "utils/uuid.h"

extern void uuid7_generate(pg_uuid_t *uuid);

#endif							/* OUTBOX_UUID7_H */
