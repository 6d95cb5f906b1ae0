/*-------------------------------------------------------------------------
 *
 * role_settings.c
 *	  What ALTER ROLE and ALTER DATABASE have set for the sessions of a role.
 *
 * PostgreSQL looks at that when a session begins, and tells nobody when it
 * changes.  Sessions of workers last, so they look from time to time.
 *
 *-------------------------------------------------------------------------
 */
#include "core/role_settings.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_db_role_setting.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/*
 * Gives the session what is set for a database and a role, either of them
 * InvalidOid for all.  What has a value of a stronger source keeps it.  Needs a
 * transaction.
 */
void
role_settings_apply(Oid database, Oid role, GucSource source)
{
	Relation	relation = table_open(DbRoleSettingRelationId, AccessShareLock);
	Snapshot	snapshot = GetCatalogSnapshot(DbRoleSettingRelationId);

	snapshot = RegisterSnapshot(snapshot);
	ApplySetting(snapshot, database, role, relation, source);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
}

/* A hash of what is set for a database and a role; 0 for nothing. */
static uint64
hash_settings(Relation relation, Oid database, Oid role)
{
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	uint64		hash = 0;

	ScanKeyInit(&keys[0], Anum_pg_db_role_setting_setdatabase,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(database));
	ScanKeyInit(&keys[1], Anum_pg_db_role_setting_setrole,
				BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(role));
	scan = systable_beginscan(relation, DbRoleSettingDatidRolidIndexId, true,
							  NULL, lengthof(keys), keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		settings = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
											RelationGetDescr(relation), &isnull);

		if (!isnull)
		{
			struct varlena *array = PG_DETOAST_DATUM(settings);

			hash = hash_bytes_extended((unsigned char *) VARDATA(array),
									   VARSIZE(array) - VARHDRSZ, 0);
		}
	}
	systable_endscan(scan);
	return hash;
}

/*
 * Returns a number that changes, most likely, with what is set for sessions of
 * a role in this database.  Needs a transaction.
 */
uint64
role_settings_hash(Oid role)
{
	Relation	relation = table_open(DbRoleSettingRelationId, AccessShareLock);
	uint64		hash = hash_settings(relation, MyDatabaseId, role);

	hash = hash_combine64(hash, hash_settings(relation, InvalidOid, role));
	hash = hash_combine64(hash, hash_settings(relation, MyDatabaseId, InvalidOid));
	hash = hash_combine64(hash, hash_settings(relation, InvalidOid, InvalidOid));
	table_close(relation, AccessShareLock);
	return hash;
}
