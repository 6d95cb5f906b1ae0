/*-------------------------------------------------------------------------
 *
 * direct_insert.c
 *	  The short way of a row into a chunk of outbox.event.
 *
 * A chunk as the extension makes it takes a row in a heap tuple and in two
 * indexes, three when the publisher gave the id.  To find that out anew for each
 * row, as the executor does for each statement, costs as much as the rest.  So
 * what a chunk is like is remembered, until PostgreSQL tells that its
 * description has changed; and rows go in as those of system catalogs do.
 *
 * What the owner of the table has added, a trigger, a constraint, a column or an
 * index that is more than columns, is not for here: event_insert.c has the
 * executor insert the row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/direct_insert.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am_d.h"
#include "nodes/execnodes.h"
#include "nodes/primnodes.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "core/compat.h"
#include "event/event.h"
#include "publish/chunk_checks.h"
#include "publish/event_chunk.h"
#include "publish/unstored_columns.h"

#define MAX_INDEXES 8

typedef struct DirectIndex
{
	Oid			oid;
	bool		given_only;		/* has rows only whose id_given is true */
	IndexInfo  *info;
} DirectIndex;

/* What a chunk is like. */
typedef struct Shape
{
	Oid			relid;			/* the chunk; InvalidOid: not known */
	bool		plain;			/* may rows go in directly?  Then */
	bool		not_null[EVENT_NCOLUMNS];
	int			nindexes;
	DirectIndex indexes[MAX_INDEXES];
	TupleDesc	short_desc;		/* of rows that need not tell where they are,
								 * NULL when all must */
	MemoryContext context;		/* of the above */
} Shape;

static Shape shapes[NCHUNKS];

/* Changes so far, of any relation. */
static uint64 changes = 0;

/* Relcache callback: forgets what a chunk is like. */
static void
forget_shape(Datum arg, Oid relid)
{
	changes++;
	for (int i = 0; i < NCHUNKS; i++)
		if (!OidIsValid(relid) || shapes[i].relid == relid)
			shapes[i].relid = InvalidOid;
}

/* Is the predicate of an index that id_given is true? */
static bool
is_given_only(List *predicate)
{
	const		Var *var = (const Var *) linitial(predicate);

	return list_length(predicate) == 1 && IsA(var, Var) &&
		var->varattno == EVENT_ID_GIVEN + 1;
}

/*
 * Adds an index to those of a chunk.  Returns false when it takes more than the
 * values of columns.
 */
static bool
learn_index(Shape *shape, Relation index)
{
	DirectIndex *learned = &shape->indexes[shape->nindexes];
	Form_pg_index form = index->rd_index;
	MemoryContext old;

	if (shape->nindexes == MAX_INDEXES ||
		(index->rd_rel->relam != BTREE_AM_OID &&
		 index->rd_rel->relam != BRIN_AM_OID) ||
		!form->indisready || !form->indimmediate || form->indisexclusion)
		return false;
	for (int i = 0; i < form->indnatts; i++)
		if (form->indkey.values[i] <= 0)
			return false;
	old = MemoryContextSwitchTo(shape->context);
	learned->oid = RelationGetRelid(index);
	learned->info = BuildIndexInfo(index);
	MemoryContextSwitchTo(old);
	learned->given_only = learned->info->ii_Predicate != NIL;
	shape->nindexes++;
	return !learned->given_only || is_given_only(learned->info->ii_Predicate);
}

static bool
learn_indexes(Shape *shape, Relation chunk)
{
	List	   *oids = RelationGetIndexList(chunk);
	bool		plain = true;
	ListCell   *lc;

	foreach(lc, oids)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);

		plain = plain && learn_index(shape, index);
		index_close(index, NoLock);
	}
	list_free(oids);
	return plain;
}

/* Has the chunk our columns only? */
static bool
learn_columns(Shape *shape, Relation chunk)
{
	TupleDesc	desc = RelationGetDescr(chunk);

	if (desc->natts != EVENT_NCOLUMNS ||
		event_id_given_column(desc) != EVENT_ID_GIVEN)
		return false;
	for (int i = 0; i < EVENT_NCOLUMNS; i++)
		shape->not_null[i] = TupleDescAttr(desc, i)->attnotnull;
	return true;
}

/*
 * Finds out what a chunk is like.  If that fails, or anything changes meanwhile,
 * it is not known afterwards, either.
 */
static void
learn_shape(Shape *shape, Relation chunk, int number)
{
	static bool watching = false;
	uint64		before = changes;
	MemoryContext old;

	if (!watching)
	{
		CacheRegisterRelcacheCallback(forget_shape, (Datum) 0);
		watching = true;
	}
	if (shape->context == NULL)
		shape->context = AllocSetContextCreate(CacheMemoryContext,
											   "outbox chunk",
											   ALLOCSET_SMALL_SIZES);
	shape->relid = InvalidOid;
	shape->nindexes = 0;
	MemoryContextReset(shape->context);
	shape->plain = chunk->rd_rel->relam == HEAP_TABLE_AM_OID &&
		!chunk_has_extras(chunk) &&
		learn_columns(shape, chunk) &&
		learn_indexes(shape, chunk);
	old = MemoryContextSwitchTo(shape->context);
	shape->short_desc = shape->plain ? place_short_desc(chunk, number) : NULL;
	MemoryContextSwitchTo(old);
	if (changes == before)
		shape->relid = RelationGetRelid(chunk);
}

/* Adds a row that is in the heap to an index. */
static void
insert_into_index(Relation chunk, Relation index, IndexInfo *learned,
				  const Datum *row, const bool *row_nulls, ItemPointer place)
{
	Form_pg_index form = index->rd_index;
	IndexInfo	info = *learned;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < form->indnatts; i++)
	{
		values[i] = row[form->indkey.values[i] - 1];
		nulls[i] = row_nulls[form->indkey.values[i] - 1];
	}
	/* What the access method keeps from row to row is not for so long. */
	info.ii_AmCache = NULL;
	info.ii_Context = CurrentMemoryContext;
	index_insert(index, values, nulls, place, chunk,
				 form->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
				 false, &info);
	compat_index_insert_cleanup(index, &info);
}

/*
 * Opens the indexes that a row goes into, others are NULL.  Returns false when
 * the chunk turns out to have changed.
 */
static bool
open_indexes(const Shape *shape, bool given, Relation *indexes)
{
	Oid			relid = shape->relid;
	int			n = shape->nindexes;
	bool		same = true;

	for (int i = 0; i < n; i++)
	{
		indexes[i] = NULL;
		/* The lock brings news of changes. */
		if (same && (given || !shape->indexes[i].given_only))
			indexes[i] = index_open(shape->indexes[i].oid, RowExclusiveLock);
		same = shape->relid == relid;
	}
	if (same)
		return true;
	for (int i = 0; i < n; i++)
		if (indexes[i])
			index_close(indexes[i], NoLock);
	return false;
}

/* May a row go in directly? */
static bool
is_plain(const Shape *shape, const bool *nulls)
{
	if (!OidIsValid(shape->relid) || !shape->plain)
		return false;
	for (int i = 0; i < EVENT_NCOLUMNS; i++)
		if (nulls[i] && shape->not_null[i])
			return false;
	return true;
}

/*
 * Inserts a row, its columns in the order of EventColumn, into the open chunk
 * of a number and its indexes.  Returns false, and does nothing, when that is
 * a matter for the executor.
 */
bool
direct_insert(Relation chunk, int number, Datum *values, const bool *nulls)
{
	Shape	   *shape = &shapes[number];
	bool		given = !nulls[EVENT_ID_GIVEN];
	Relation	indexes[MAX_INDEXES];
	TupleDesc	desc;
	HeapTuple	tuple;

	if (shape->relid != RelationGetRelid(chunk))
		learn_shape(shape, chunk, number);
	if (!is_plain(shape, nulls) || !open_indexes(shape, given, indexes))
		return false;
	desc = given || shape->short_desc == NULL ? RelationGetDescr(chunk) :
		shape->short_desc;
	tuple = heap_form_tuple(desc, values, (bool *) nulls);
	heap_insert(chunk, tuple, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < shape->nindexes; i++)
	{
		if (indexes[i] == NULL)
			continue;
		insert_into_index(chunk, indexes[i], shape->indexes[i].info, values,
						  nulls, &tuple->t_self);
		index_close(indexes[i], NoLock);
	}
	heap_freetuple(tuple);
	return true;
}
