/*-------------------------------------------------------------------------
 *
 * identity_table.h
 *	  Is this database itself, or a copy of another one?
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_IDENTITY_TABLE_H
#define OUTBOX_IDENTITY_TABLE_H

#include "postgres.h"

typedef enum Identity
{
	IDENTITY_SETTLED,			/* all is ours */
	IDENTITY_COPIED,			/* a copy that nobody has decided about */
	IDENTITY_ADOPTED			/* a copy whose pending events are ours to
								 * publish, and are not all published yet */
} Identity;

extern Identity identity_check(void);
extern bool identity_next_adopted(int32 *database_id);
extern void identity_forget(int32 database_id);

#endif							/* OUTBOX_IDENTITY_TABLE_H */
