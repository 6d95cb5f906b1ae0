/*-------------------------------------------------------------------------
 *
 * subscription_row.h
 *	  inbox.subscription as scouts and consumers read it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SUBSCRIPTION_ROW_H
#define OUTBOX_SUBSCRIPTION_ROW_H

#include "postgres.h"

#include "inbox/subscription/subscription.h"

extern bool subscription_note_role_names(void);
extern Subscription *subscription_subscription(const char *name);
extern bool subscription_is_unchanged(const Subscription *subscription);
extern bool subscription_is_current(const Subscription *subscription);

#endif							/* OUTBOX_SUBSCRIPTION_ROW_H */
