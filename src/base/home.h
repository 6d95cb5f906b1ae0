/*-------------------------------------------------------------------------
 *
 * home.h
 *	  The number of this database, in which its transaction ids mean something.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_HOME_H
#define OUTBOX_HOME_H

#include "postgres.h"

extern int32 home_id(void);

#endif							/* OUTBOX_HOME_H */
