/*-------------------------------------------------------------------------
 *
 * subscription.h
 *	  Who may change a subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUBSCRIPTION_H
#define OUTBOX_SUBSCRIPTION_H

#include "postgres.h"

extern void subscription_lock(const char *name);
extern Oid	subscription_role(const char *name, bool missing_ok);
extern void subscription_check_role(const char *name, Oid role);

#endif							/* OUTBOX_SUBSCRIPTION_H */
