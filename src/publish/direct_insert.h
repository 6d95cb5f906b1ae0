/*-------------------------------------------------------------------------
 *
 * direct_insert.h
 *	  The short way of a row into a chunk of outbox.event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DIRECT_INSERT_H
#define OUTBOX_DIRECT_INSERT_H

#include "postgres.h"

#include "utils/rel.h"

extern bool direct_insert(Relation chunk, int number, Datum *values,
						  const bool *nulls);

#endif							/* OUTBOX_DIRECT_INSERT_H */
