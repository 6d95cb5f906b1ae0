/*-------------------------------------------------------------------------
 *
 * subscription_changes.h
 *	  Who may change a subscription, and changes of its row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUBSCRIPTION_CHANGES_H
#define OUTBOX_SUBSCRIPTION_CHANGES_H

#include "postgres.h"

#include "fmgr.h"

extern char *subscription_own(FunctionCallInfo fcinfo);
extern void subscription_change(const char *name, const char *statement,
								int nargs, const Oid *types,
								const Datum *values, const bool *nulls);
extern void subscription_lock(const char *name);
extern Oid	subscription_role(const char *name, bool missing_ok);
extern void subscription_check_role(const char *name, Oid role);

#endif							/* OUTBOX_SUBSCRIPTION_CHANGES_H */
