/*-------------------------------------------------------------------------
 *
 * option_conflicts.h
 *	  Checks whether the options of a server go together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OPTION_CONFLICTS_H
#define OUTBOX_OPTION_CONFLICTS_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void option_conflicts_check(List *options);

#endif							/* OUTBOX_OPTION_CONFLICTS_H */
