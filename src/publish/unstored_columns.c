/*-------------------------------------------------------------------------
 *
 * unstored_columns.c
 *	  Columns that tell where a row belongs, and need not be stored in it.
 *
 * All rows of a chunk have its number in the column chunk, and nearly all the
 * number of this database in database_id.  So rows of publish() end in front of these
 * two, which are the last but for id_given, and that is NULL then.  PostgreSQL
 * knows such rows from ALTER TABLE ... ADD COLUMN with a default: for a column
 * that a row is too short for, it takes the value that its catalog has for rows
 * from before the column.  When the extension is created it has each chunk's
 * number and database_id noted there, while the chunks have no rows.
 *
 * Whatever writes a table anew, writes the values into all rows and forgets them
 * in the catalog.  A copy of a database has the database_id of the original there.  And
 * in a table that is older than id_given, rows that are too short for it have
 * another value there.  So it is looked at the catalog before a row is short.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/unstored_columns.h"

#include "access/relation.h"
#include "access/tupdesc_details.h"
#include "catalog/heap.h"
#include "fmgr.h"

#include "core/database_id.h"
#include "event/event.h"
#include "publish/event_chunk.h"

PG_FUNCTION_INFO_V1(outbox_note_places);

/* Notes the value of a column in a chunk. */
static void
note_value(Relation chunk, EventColumn column, int value)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(chunk), column);

	SetAttrMissing(RelationGetRelid(chunk), NameStr(att->attname),
				   psprintf("{%d}", value));
}

/*
 * SQL function outbox.note_places() RETURNS void: for the script that makes the
 * extension.
 */
Datum
outbox_note_places(PG_FUNCTION_ARGS)
{
	for (int i = 0; i < NCHUNKS; i++)
	{
		Relation	chunk = event_chunk_open_chunk(i, AccessExclusiveLock);

		note_value(chunk, EVENT_CHUNK, i);
		note_value(chunk, EVENT_DATABASE_ID, own_database_id());
		relation_close(chunk, NoLock);
	}
	PG_RETURN_VOID();
}

/*
 * The description of rows of a chunk that leave out where they belong, in the
 * current memory context; NULL when there is no leaving out.
 */
TupleDesc
place_short_desc(Relation chunk, int number)
{
	TupleDesc	desc = RelationGetDescr(chunk);
	AttrMissing *missing = desc->constr ? desc->constr->missing : NULL;
	TupleDesc	result;

	if (missing == NULL || missing[EVENT_ID_GIVEN].am_present ||
		!missing[EVENT_CHUNK].am_present || !missing[EVENT_DATABASE_ID].am_present ||
		DatumGetInt16(missing[EVENT_CHUNK].am_value) != number ||
		DatumGetInt32(missing[EVENT_DATABASE_ID].am_value) != own_database_id())
		return NULL;
	result = CreateTemplateTupleDesc(EVENT_CHUNK);
	for (int i = 1; i <= EVENT_CHUNK; i++)
		TupleDescCopyEntry(result, i, desc, i);
	return result;
}
