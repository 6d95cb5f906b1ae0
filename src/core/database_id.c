/*-------------------------------------------------------------------------
 *
 * database_id.c
 *	  The number of this database.
 *
 * Rows of outbox.event can get into another database: by a dump, as a
 * template, through logical replication.  There the transaction ids in them
 * mean nothing, or worse, something else.  So each row carries the number of
 * the database that it was published in: a hash of the cluster's system
 * identifier and the database's oid.
 *
 *-------------------------------------------------------------------------
 */
#include "core/database_id.h"

#include "access/xlog.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"

PG_FUNCTION_INFO_V1(outbox_database_id);

/*
 * The number of the database that this process is connected to.
 */
int32
own_database_id(void)
{
	static int32 id = 0;

	if (id == 0)
	{
		struct
		{
			uint64		system;
			uint64		database;
		}			key = {GetSystemIdentifier(), MyDatabaseId};

		id = (int32) hash_bytes((const unsigned char *) &key, sizeof(key));
	}
	return id;
}

/*
 * SQL function outbox.database_id() RETURNS integer
 */
Datum
outbox_database_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(own_database_id());
}
