/*-------------------------------------------------------------------------
 *
 * database_id.h
 *	  The number of this database, in which its transaction ids mean something.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DATABASE_ID_H
#define OUTBOX_DATABASE_ID_H

#include "postgres.h"

extern int32 own_database_id(void);

#endif							/* OUTBOX_DATABASE_ID_H */
