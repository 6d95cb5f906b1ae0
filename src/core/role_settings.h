/*-------------------------------------------------------------------------
 *
 * role_settings.h
 *	  What ALTER ROLE and ALTER DATABASE have set for the sessions of a role.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_ROLE_SETTINGS_H
#define OUTBOX_ROLE_SETTINGS_H

#include "postgres.h"

#include "utils/guc.h"

extern void role_settings_apply(Oid database, Oid role, GucSource source);
extern uint64 role_settings_hash(Oid role);

#endif							/* OUTBOX_ROLE_SETTINGS_H */
