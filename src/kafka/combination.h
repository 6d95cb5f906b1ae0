/*-------------------------------------------------------------------------
 *
 * combination.h
 *	  Checks whether the options of a server go together.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_KAFKA_COMBINATION_H
#define OUTBOX_KAFKA_COMBINATION_H

#include "nodes/pg_list.h"

extern void combination_check(List *options);

#endif							/* OUTBOX_KAFKA_COMBINATION_H */
