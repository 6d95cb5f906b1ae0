/*-------------------------------------------------------------------------
 *
 * unstored_columns.h
 *	  Columns that tell where a row belongs, and need not be stored in it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UNSTORED_COLUMNS_H
#define OUTBOX_UNSTORED_COLUMNS_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "utils/rel.h"

extern TupleDesc place_short_desc(Relation chunk, int number);

#endif							/* OUTBOX_UNSTORED_COLUMNS_H */
