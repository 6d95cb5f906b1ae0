/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the PostgreSQL releases that we support (15-18).
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMPAT_H
#define OUTBOX_COMPAT_H

#include "postgres.h"

#if PG_VERSION_NUM >= 160000
#include "storage/relfilelocator.h"
#else
#include "storage/relfilenode.h"
#endif

#if PG_VERSION_NUM >= 160000
#include "varatt.h"				/* was part of postgres.h */
#endif

#include "access/genam.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_foreign_server.h"
#include "executor/executor.h"
#include "replication/reorderbuffer.h"
#include "replication/slot.h"
#include "rewrite/rewriteHandler.h"
#include "storage/latch.h"
#include "utils/acl.h"

#if PG_VERSION_NUM < 150000
#error "outbox needs PostgreSQL 15 or newer"
#endif

/* Marks the declaration, in front, of a function that does not return. */
#ifndef pg_noreturn
#define pg_noreturn __attribute__((noreturn))
#endif

/* The new tuple of a decoded change. */
#if PG_VERSION_NUM >= 170000
#define compat_new_tuple(change) ((change)->data.tp.newtuple)
#else
#define compat_new_tuple(change) \
	((change)->data.tp.newtuple ? &(change)->data.tp.newtuple->tuple : NULL)
#endif

/* The file of a table. */
#if PG_VERSION_NUM >= 160000
typedef RelFileLocator CompatLocator;
#define compat_locator_tablespace(file) ((file).spcOid)
#define compat_locator_database(file) ((file).dbOid)
#define compat_locator_number(file) ((file).relNumber)
#define compat_mapped_relation(number) RelationMapFilenumberToOid(number, false)
#define compat_rlocator rlocator	/* field of xl_smgr_create */
#define compat_rd_locator rd_locator	/* field of RelationData */
#else
typedef RelFileNode CompatLocator;
#define compat_locator_tablespace(file) ((file).spcNode)
#define compat_locator_database(file) ((file).dbNode)
#define compat_locator_number(file) ((file).relNode)
#define compat_mapped_relation(number) RelationMapFilenodeToOid(number, false)
#define compat_rlocator rnode
#define compat_rd_locator rd_node
#endif

/* Creates an ephemeral logical slot. */
#if PG_VERSION_NUM >= 170000
#define compat_slot_create(name) \
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false, false, false)
#else
#define compat_slot_create(name) \
	ReplicationSlotCreate(name, true, RS_EPHEMERAL, false)
#endif

/*
 * From now on the slot goes to standbys, where they can have it.  Not before
 * all in front of it is published: they cannot tell.
 */
#if PG_VERSION_NUM >= 170000
#define compat_slot_survive_failover() \
	do { \
		SpinLockAcquire(&MyReplicationSlot->mutex); \
		MyReplicationSlot->data.failover = true; \
		SpinLockRelease(&MyReplicationSlot->mutex); \
	} while (0)
#else
#define compat_slot_survive_failover() ((void) 0)
#endif

#if PG_VERSION_NUM >= 180000
#define compat_slot_acquire(name) ReplicationSlotAcquire(name, true, true)
#else
#define compat_slot_acquire(name) ReplicationSlotAcquire(name, true)
#endif

/* Starts to scan an index by so many keys, without an ordering. */
#if PG_VERSION_NUM >= 180000
#define compat_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define compat_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* Inserts a new row into the indexes; tells a conflict, or raises it if NULL. */
static inline void
compat_insert_index_tuples(ResultRelInfo *target, TupleTableSlot *slot,
						   EState *estate, bool *conflict)
{
#if PG_VERSION_NUM >= 160000
	ExecInsertIndexTuples(target, slot, estate, false, conflict != NULL,
						  conflict, NIL, false);
#else
	ExecInsertIndexTuples(target, slot, estate, false, conflict != NULL,
						  conflict, NIL);
#endif
}

/* Lets go of what an index keeps from one insertion to the next. */
#if PG_VERSION_NUM >= 170000
#define compat_index_insert_cleanup(index, info) index_insert_cleanup(index, info)
#else
#define compat_index_insert_cleanup(index, info) ((void) 0)
#endif

/* May the slot no longer be decoded from? */
#if PG_VERSION_NUM >= 160000
#define compat_slot_invalidated(slot) ((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define compat_slot_invalidated(slot) \
	(XLogRecPtrIsInvalid((slot)->data.restart_lsn) && \
	 !XLogRecPtrIsInvalid((slot)->data.invalidated_at))
#endif

/* Does a standby have the slot from its primary? */
#if PG_VERSION_NUM >= 170000
#define compat_slot_synced(slot) ((slot)->data.synced)
#else
#define compat_slot_synced(slot) false
#endif

#if PG_VERSION_NUM >= 170000
#define compat_create_wait_event_set(n) CreateWaitEventSet(NULL, n)
#else
#define compat_create_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, n)
#endif

#if PG_VERSION_NUM >= 160000
#define compat_owns_database(dboid) \
	object_ownercheck(DatabaseRelationId, dboid, GetUserId())
#define compat_owns_extension(extoid) \
	object_ownercheck(ExtensionRelationId, extoid, GetUserId())
#define compat_owns_schema(nspoid) \
	object_ownercheck(NamespaceRelationId, nspoid, GetUserId())
#define compat_owns_server(srvoid) \
	object_ownercheck(ForeignServerRelationId, srvoid, GetUserId())
#else
#define compat_owns_database(dboid) \
	pg_database_ownercheck(dboid, GetUserId())
#define compat_owns_extension(extoid) \
	pg_extension_ownercheck(extoid, GetUserId())
#define compat_owns_schema(nspoid) \
	pg_namespace_ownercheck(nspoid, GetUserId())
#define compat_owns_server(srvoid) \
	pg_foreign_server_ownercheck(srvoid, GetUserId())
#endif

/* May a role use the object in the way of the privilege? */
#if PG_VERSION_NUM >= 160000
#define compat_may_execute(function, role) \
	(object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE) == ACLCHECK_OK)
#define compat_may_use_schema(schema, role) \
	(object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK)
#define compat_may_use_server(server, role) \
	(object_aclcheck(ForeignServerRelationId, server, role, ACL_USAGE) == ACLCHECK_OK)
#else
#define compat_may_execute(function, role) \
	(pg_proc_aclcheck(function, role, ACL_EXECUTE) == ACLCHECK_OK)
#define compat_may_use_schema(schema, role) \
	(pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK)
#define compat_may_use_server(server, role) \
	(pg_foreign_server_aclcheck(server, role, ACL_USAGE) == ACLCHECK_OK)
#endif

/*
 * May a user become a role, and so run what he likes with its privileges?  One
 * that has them need not be able to, since release 16.
 */
#if PG_VERSION_NUM >= 160000
#define compat_may_become(user, role) member_can_set_role(user, role)
#else
#define compat_may_become(user, role) has_privs_of_role(user, role)
#endif

/* Base64 of bytes; their type was char and is uint8. */
#if PG_VERSION_NUM >= 180000
#define compat_b64_encode(bytes, len, to, size) \
	pg_b64_encode((const uint8 *) (bytes), len, to, size)
#else
#define compat_b64_encode(bytes, len, to, size) \
	pg_b64_encode((const char *) (bytes), len, to, size)
#endif

/* All settings of the server, in palloc'd memory or not, and their number. */
#if PG_VERSION_NUM >= 160000
#define compat_guc_variables(count) get_guc_variables(count)
#else
#define compat_guc_variables(count) \
	(*(count) = GetNumConfigOptions(), get_guc_variables())
#endif

/*
 * Prepared CHECK constraints of a relation that takes rows, and the expression
 * of one.  With virtual generated columns those have to be filled in.
 */
#if PG_VERSION_NUM >= 180000
#define COMPAT_CHECKS(target) ((target)->ri_CheckConstraintExprs)
#define compat_check_node(check, relation) \
	((Expr *) expand_generated_columns_in_expr(stringToNode((check)->ccbin), \
											   relation, 1))
#define compat_is_enforced(check) ((check)->ccenforced)
#else
#define COMPAT_CHECKS(target) ((target)->ri_ConstraintExprs)
#define compat_check_node(check, relation) \
	((Expr *) stringToNode((check)->ccbin))
#define compat_is_enforced(check) true
#endif

/* The group of settings that concern other platforms and clients. */
#if PG_VERSION_NUM < 170000
#define COMPAT_OPTIONS_OTHER COMPAT_OPTIONS_CLIENT
#endif

/* Is the database what an interrupted DROP DATABASE left? */
#ifdef DATCONNLIMIT_INVALID_DB
#define compat_database_invalid(form) \
	((form)->datconnlimit == DATCONNLIMIT_INVALID_DB)
#else
#define compat_database_invalid(form) false
#endif

#endif							/* OUTBOX_COMPAT_H */
