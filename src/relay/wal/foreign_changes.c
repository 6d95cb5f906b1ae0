/*-------------------------------------------------------------------------
 *
 * foreign_changes.c
 *	  Changes of tables that hold no events, which need no decoding.
 *
 * The server's logical decoding copies each change of each table of the
 * database into its reorder buffer, spills what gets too much to disk, and
 * hands all of it to the output plugin at the commit.  The plugin wants rows
 * of outbox.event and nothing else.  So here is found out, before the reorder
 * buffer has it, whether a record changes a foreign table: one that is not
 * outbox.event, nor a chunk of it, nor the TOAST table of one.  Of such a record
 * only the transaction is made known, as for one that decoding skips by itself.
 *
 * A record names a table by its file (relfilenode).  The verdict about a file
 * is made when its first change is met, and must hold for all further ones,
 * although decoding is in the past, in an open transaction as likely as not:
 *
 * - pg_class is searched for all versions of rows that have this file: those
 *   of open transactions, and dead ones.  The slot keeps from vacuum all that
 *   decoding may need (catalog_xmin), so no version of those is missed.  What
 *   an aborted transaction made may be gone already; where nothing is found
 *   the change is decoded.
 * - Likewise outbox.event is every relation that any version of a row calls so,
 *   and its chunks are all that any version of a row of pg_inherits says.
 * - A foreign table that becomes a chunk later is locked until then against
 *   those who write to it.  The command writes the invalidation of its cached
 *   descriptor, and of outbox.event's, into WAL before the next command begins,
 *   and again at the commit.  That is when verdicts are forgotten.
 * - A file's number may come again after the table was dropped.  Making the
 *   file is in WAL.
 *
 * Deletions concern nobody: the plugin ignores them in every table.  Not so the
 * deletion that takes back a speculative insertion.
 *
 * Compiled with OUTBOX_CHECK_FOREIGN nothing is skipped, and an event whose
 * change would have been is an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/wal/foreign_changes.h"

#include "access/genam.h"
#include "access/heapam_xlog.h"
#include "access/relation.h"
#include "access/rmgr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/storage_xlog.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/reorderbuffer.h"
#include "replication/snapbuild.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/relmapper.h"
#include "utils/snapmgr.h"

#include "core/background_worker.h"
#include "core/compat.h"

#define EVENT_SCHEMA "outbox"
#define EVENT_TABLE "event"

/* When there are more verdicts all are forgotten. */
#define MAX_VERDICTS 16384

/* ALTER TABLE fills a file for a temporary owner, who hands it over. */
#define MAX_OWNERS 2

typedef struct FileVerdict
{
	CompatLocator file;			/* key */
	Oid			owners[MAX_OWNERS]; /* the tables that have or had it */
	bool		is_foreign;
} FileVerdict;

static HTAB *verdicts = NULL;
static FileVerdict *last = NULL;	/* the one that was asked for last */

/* outbox.event and its chunks, as of the last look into the catalogs. */
static List *event_relations = NIL;

/* Forgets all verdicts. */
static void
forget_all(void)
{
	if (verdicts)
		hash_destroy(verdicts);
	verdicts = NULL;
	last = NULL;
}

static void
make_table(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(CompatLocator);
	ctl.entrysize = sizeof(FileVerdict);
	ctl.hcxt = TopMemoryContext;
	verdicts = hash_create("outbox files", 256, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static bool
is_owner(const FileVerdict *verdict, Oid relid)
{
	for (int i = 0; i < MAX_OWNERS; i++)
		if (verdict->owners[i] == relid)
			return true;
	return false;
}

/* A table's cached descriptor is invalid; of all tables if relid is none. */
static void
forget_relation(Oid relid)
{
	HASH_SEQ_STATUS scan;
	FileVerdict *verdict;

	if (verdicts == NULL)
		return;
	if (!OidIsValid(relid) || list_member_oid(event_relations, relid))
	{
		forget_all();
		return;
	}
	hash_seq_init(&scan, verdicts);
	while ((verdict = hash_seq_search(&scan)) != NULL)
		if (is_owner(verdict, relid))
			hash_search(verdicts, &verdict->file, HASH_REMOVE, NULL);
	last = NULL;
}

static void
forget_invalid(int count, const SharedInvalidationMessage *messages)
{
	for (int i = 0; i < count; i++)
	{
		const SharedInvalidationMessage *message = &messages[i];

		if (message->id == SHAREDINVALRELCACHE_ID &&
			(message->rc.dbId == MyDatabaseId || !OidIsValid(message->rc.dbId)))
			forget_relation(message->rc.relId);
	}
}

/* Forgets what a record makes untrue. */
static void
heed_record(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record);

	if (verdicts == NULL)
		return;
	if (XLogRecGetRmid(record) == RM_SMGR_ID &&
		(info & ~XLR_INFO_MASK) == XLOG_SMGR_CREATE)
	{
		xl_smgr_create *create = (xl_smgr_create *) XLogRecGetData(record);

		hash_search(verdicts, &create->compat_rlocator, HASH_REMOVE, NULL);
		last = NULL;
	}
	else if (XLogRecGetRmid(record) != RM_XACT_ID)
		return;
	else if ((info & XLOG_XACT_OPMASK) == XLOG_XACT_INVALIDATIONS)
	{
		xl_xact_invals *invals = (xl_xact_invals *) XLogRecGetData(record);

		forget_invalid(invals->nmsgs, invals->msgs);
	}
	else if ((info & XLOG_XACT_OPMASK) == XLOG_XACT_COMMIT ||
			 (info & XLOG_XACT_OPMASK) == XLOG_XACT_COMMIT_PREPARED)
	{
		xl_xact_parsed_commit parsed;

		ParseCommitRecord(info, (xl_xact_commit *) XLogRecGetData(record), &parsed);
		forget_invalid(parsed.nmsgs, parsed.msgs);
	}
}

/*
 * All versions of rows of a catalog with these keys: adds the oid in the given
 * column to the list.
 */
static List *
collect(List *oids, Oid catalog, Oid index, ScanKey keys, int nkeys, AttrNumber column)
{
	Relation	relation = table_open(catalog, AccessShareLock);
	SysScanDesc scan = systable_beginscan(relation, index, true, SnapshotAny,
										  nkeys, keys);
	HeapTuple	tuple;
	bool		isnull;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		oids = list_append_unique_oid(oids,
									  DatumGetObjectId(heap_getattr(tuple, column,
																	RelationGetDescr(relation), &isnull)));
	systable_endscan(scan);
	table_close(relation, NoLock);
	return oids;
}

/* The relations that any version of pg_class calls outbox.event. */
static List *
find_event_tables(void)
{
	ScanKeyData keys[2];
	NameData	name;
	List	   *schemas;
	List	   *tables = NIL;
	ListCell   *lc;

	namestrcpy(&name, EVENT_SCHEMA);
	ScanKeyInit(&keys[0], Anum_pg_namespace_nspname, BTEqualStrategyNumber,
				F_NAMEEQ, NameGetDatum(&name));
	schemas = collect(NIL, NamespaceRelationId, NamespaceNameIndexId, keys, 1,
					  Anum_pg_namespace_oid);
	namestrcpy(&name, EVENT_TABLE);
	foreach(lc, schemas)
	{
		ScanKeyInit(&keys[0], Anum_pg_class_relname, BTEqualStrategyNumber,
					F_NAMEEQ, NameGetDatum(&name));
		ScanKeyInit(&keys[1], Anum_pg_class_relnamespace, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(lfirst_oid(lc)));
		tables = collect(tables, RelationRelationId, ClassNameNspIndexId, keys, 2,
						 Anum_pg_class_oid);
	}
	return tables;
}

/* outbox.event, its chunks, and what their TOAST tables are or were. */
static List *
find_event_relations(void)
{
	List	   *relations = find_event_tables();
	List	   *toast = NIL;
	ScanKeyData key;
	ListCell   *lc;

	/* The list grows by partitions of partitions as it is walked. */
	foreach(lc, relations)
	{
		ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber,
					F_OIDEQ, ObjectIdGetDatum(lfirst_oid(lc)));
		relations = collect(relations, InheritsRelationId, InheritsParentIndexId,
							&key, 1, Anum_pg_inherits_inhrelid);
	}
	foreach(lc, relations)
	{
		ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(lfirst_oid(lc)));
		toast = collect(toast, RelationRelationId, ClassOidIndexId, &key, 1,
						Anum_pg_class_reltoastrelid);
	}
	return list_concat_unique_oid(relations, toast);
}

/*
 * The tables that have the file, or had it.  Some catalogs are not in pg_class
 * with theirs.
 */
static List *
find_owners(CompatLocator file)
{
	Oid			tablespace = compat_locator_tablespace(file);
	Oid			mapped;
	ScanKeyData keys[2];
	List	   *owners;

	if (tablespace == MyDatabaseTableSpace)
		tablespace = InvalidOid;
	ScanKeyInit(&keys[0], Anum_pg_class_reltablespace, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(tablespace));
	ScanKeyInit(&keys[1], Anum_pg_class_relfilenode, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(compat_locator_number(file)));
	owners = collect(NIL, RelationRelationId, ClassTblspcRelfilenodeIndexId, keys,
					 2, Anum_pg_class_oid);
	mapped = compat_mapped_relation(compat_locator_number(file));
	if (OidIsValid(mapped))
		owners = list_append_unique_oid(owners, mapped);
	return owners;
}

/*
 * Says whether a file is foreign, given all relations that have to do with
 * events.
 */
static void
judge(FileVerdict *verdict, const List *relations)
{
	List	   *owners = find_owners(verdict->file);
	ListCell   *lc;

	verdict->is_foreign = relations != NIL && owners != NIL &&
		list_length(owners) <= MAX_OWNERS;
	foreach(lc, owners)
	{
		if (foreach_current_index(lc) < MAX_OWNERS)
			verdict->owners[foreach_current_index(lc)] = lfirst_oid(lc);
		if (list_member_oid(relations, lfirst_oid(lc)))
			verdict->is_foreign = false;
	}
}

/*
 * Looks into the catalogs, in a transaction of its own.  Does not wait for
 * somebody who has locked them: then there is no verdict.
 */
static bool
look_up(FileVerdict *verdict)
{
	static const Oid catalogs[] = {RelationRelationId, NamespaceRelationId,
	InheritsRelationId};
	MemoryContext old;
	List	   *relations;
	bool		locked = true;

	worker_begin();
	for (int i = 0; i < lengthof(catalogs) && locked; i++)
		locked = ConditionalLockRelationOid(catalogs[i], AccessShareLock);
	if (locked)
	{
		relations = find_event_relations();
		old = MemoryContextSwitchTo(TopMemoryContext);
		list_free(event_relations);
		event_relations = list_copy(relations);
		MemoryContextSwitchTo(old);
		judge(verdict, relations);
	}
	CommitTransactionCommand();
	return locked;
}

/* Is the file that of a table which holds no events, beyond doubt? */
static bool
is_foreign(CompatLocator file)
{
	FileVerdict verdict = {.file = file};

	if (compat_locator_database(file) != MyDatabaseId)
		return false;			/* decoding skips it by itself */
	if (last && memcmp(&last->file, &file, sizeof(file)) == 0)
		return last->is_foreign;
	if (verdicts == NULL)
		make_table();
	last = hash_search(verdicts, &file, HASH_FIND, NULL);
	if (last == NULL)
	{
		if (!look_up(&verdict))
			return false;
		if (hash_get_num_entries(verdicts) >= MAX_VERDICTS)
		{
			forget_all();
			make_table();
		}
		last = hash_search(verdicts, &file, HASH_ENTER, NULL);
		*last = verdict;
	}
	return last->is_foreign;
}

/* Does a record do nothing but change rows that are no events? */
static bool
is_foreign_change(XLogReaderState *record)
{
	uint8		operation = XLogRecGetInfo(record) & XLOG_HEAP_OPMASK;
	CompatLocator file;

	if (XLogRecGetRmid(record) == RM_HEAP2_ID)
	{
		if (operation != XLOG_HEAP2_MULTI_INSERT)
			return false;
	}
	else if (XLogRecGetRmid(record) != RM_HEAP_ID)
		return false;
	else if (operation == XLOG_HEAP_DELETE)
	{
		xl_heap_delete *deletion = (xl_heap_delete *) XLogRecGetData(record);

		if (!(deletion->flags & XLH_DELETE_IS_SUPER))
			return true;
	}
	else if (operation != XLOG_HEAP_INSERT && operation != XLOG_HEAP_UPDATE &&
			 operation != XLOG_HEAP_HOT_UPDATE && operation != XLOG_HEAP_CONFIRM)
		return false;
	XLogRecGetBlockTag(record, 0, &file, NULL, NULL);
	return is_foreign(file);
}

#ifdef OUTBOX_CHECK_FOREIGN

/* Where the changes are that would have been skipped. */
static HTAB *skipped = NULL;

static void
skip(LogicalDecodingContext *context)
{
	if (skipped == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(XLogRecPtr),.entrysize = sizeof(XLogRecPtr)};

		skipped = hash_create("outbox skipped changes", 1024, &ctl,
							  HASH_ELEM | HASH_BLOBS);
	}
	hash_search(skipped, &context->reader->ReadRecPtr, HASH_ENTER, NULL);
	LogicalDecodingProcessRecord(context, context->reader);
}

/*
 * An event of this relation was decoded from the change at lsn: raises an error
 * when that, or what the relation's TOAST table has, would have been skipped.
 */
void
foreign_changes_check_event(XLogRecPtr lsn, Relation relation)
{
	if (skipped && hash_search(skipped, &lsn, HASH_FIND, NULL))
		elog(ERROR, "an event at %X/%X would have been skipped",
			 LSN_FORMAT_ARGS(lsn));
	if (OidIsValid(relation->rd_rel->reltoastrelid) && verdicts)
	{
		Relation	toast = RelationIdGetRelation(relation->rd_rel->reltoastrelid);
		FileVerdict *verdict = hash_search(verdicts, &toast->compat_rd_locator, HASH_FIND, NULL);

		if (verdict && verdict->is_foreign)
			elog(ERROR, "rows of the TOAST table of \"%s\" would have been skipped",
				 RelationGetRelationName(relation));
		RelationClose(toast);
	}
}

#else

/*
 * Makes the transaction of a record known, as decoding does with each.  It gets
 * its snapshot as well: what it goes on with may have to be decoded, and until
 * then the slot must keep the catalogs for it.
 */
static void
skip(LogicalDecodingContext *context)
{
	XLogReaderState *record = context->reader;
	TransactionId xid = XLogRecGetXid(record);
	TransactionId top = XLogRecGetTopXid(record);

	if (TransactionIdIsValid(top))
		ReorderBufferAssignChild(context->reorder, top, xid, record->ReadRecPtr);
	ReorderBufferProcessXid(context->reorder, xid, record->ReadRecPtr);
	if (SnapBuildCurrentState(context->snapshot_builder) >= SNAPBUILD_FULL_SNAPSHOT)
		(void) SnapBuildProcessChange(context->snapshot_builder, xid,
									  record->ReadRecPtr);
}

#endif

/*
 * Decodes the record that was read last, or as much of it as concerns events.
 * Runs outside of any transaction.
 */
void
foreign_changes_process_record(LogicalDecodingContext *context)
{
	heed_record(context->reader);
	if (is_foreign_change(context->reader))
		skip(context);
	else
		LogicalDecodingProcessRecord(context, context->reader);
}
