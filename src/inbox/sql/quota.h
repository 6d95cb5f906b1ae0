/*-------------------------------------------------------------------------
 *
 * quota.h
 *	  How much the subscriptions of a role may take.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_QUOTA_H
#define OUTBOX_QUOTA_H

#include "postgres.h"

extern void quota_check_workers(const char *name, Oid role, int workers);
extern void quota_check_keep(const char *name, Datum keep);

#endif							/* OUTBOX_QUOTA_H */
